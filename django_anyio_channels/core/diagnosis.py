"""Findings about what all brokers have: TLS, and a clock."""

from __future__ import annotations

from ipaddress import ip_address

from .inspection import Finding

_TOLERATED_SECONDS = 2.0
"""By which two clocks may differ without a finding."""


def tls_finding(address: str, host: str, *, encrypted: bool, cure: str) -> Finding:
    """Return whether the way to a broker is encrypted, where it leaves this machine. An empty host is a socket file."""
    if encrypted:
        return Finding("ok", f"{address} is reached over TLS")
    if _is_loopback(host):
        return Finding("ok", f"{address} is on this machine, where TLS is not needed")
    return Finding(
        "warning", f"{address} is reached without TLS: others on the network may read messages and passwords", cure
    )


def clock_finding(name: str, clock: float, before: float, after: float) -> Finding:
    """Return whether a clock is right that was read between two times of `time.time` here."""
    ahead = clock - (before + after) / 2
    if abs(ahead) <= _TOLERATED_SECONDS + (after - before) / 2:
        return Finding("ok", f"The clock of {name} agrees with this one")
    relation = "ahead of" if ahead > 0 else "behind"
    return Finding(
        "warning",
        f"The clock of {name} is {abs(ahead):.1f} s {relation} this one",
        "Have both synchronised, for example by chrony or systemd-timesyncd",
    )


def _is_loopback(host: str) -> bool:
    try:
        return host in ("", "localhost") or ip_address(host).is_loopback
    except ValueError:
        return False
