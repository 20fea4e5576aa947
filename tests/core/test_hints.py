"""The nearest valid name for an unknown one."""

from __future__ import annotations

from django_anyio_channels.core.hints import did_you_mean

KNOWN = ["capacity", "channel_capacity", "expiry", "prefix"]


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("capacty", KNOWN) == "Did you mean 'capacity'?"
    assert did_you_mean("capacty", set(KNOWN), otherwise="See the documentation") == "Did you mean 'capacity'?"
    assert did_you_mean("Prefix", dict.fromkeys(KNOWN)) == "Did you mean 'prefix'?"


def test_without_a_near_name_the_alternative_is_returned() -> None:
    assert did_you_mean("hosts", KNOWN) == ""
    assert did_you_mean("hosts", KNOWN, otherwise="Known are: prefix") == "Known are: prefix"
    assert did_you_mean("hosts", []) == ""


def test_a_name_may_be_any_object() -> None:
    assert did_you_mean(7, KNOWN, otherwise="names are strings") == "names are strings"
    assert did_you_mean(7, ["77"]) == "Did you mean '77'?"
