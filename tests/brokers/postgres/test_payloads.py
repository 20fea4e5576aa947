"""Bytes and names as NOTIFY carries them."""

from __future__ import annotations

import random

import pytest

from django_anyio_channels import DecodeError, PayloadTooLarge
from django_anyio_channels.brokers.postgres import payloads as postgres_frames
from django_anyio_channels.brokers.postgres.payloads import LARGEST_PAYLOAD, LONGEST_NAME, Joiner, channel_name, split

SAMPLES = {
    "nothing": b"",
    "every byte": bytes(range(256)),
    "NUL": b"\0" * 5000,
    "high": b"\xff" * 5000,
    "just whole": b"x" * (LARGEST_PAYLOAD - 7),
    "just too much": b"x" * (LARGEST_PAYLOAD - 6),
    "mostly ASCII": (b"x" * 50 + b"\x81\0") * 3000,
    "cut within a character": b"xxx\xff" * 5000,
    "random": random.Random(1).randbytes(100_000),
}


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("message", SAMPLES.values(), ids=SAMPLES)
def test_what_is_split_is_joined(message: bytes, unicode: bool) -> None:
    joiner = Joiner()
    for _ in range(2):
        *parts, last = split(message, unicode=unicode)
        assert [joiner.add(part) for part in parts] == [None] * len(parts)
        assert joiner.add(last) == message


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("message", SAMPLES.values(), ids=SAMPLES)
def test_payloads_are_what_the_server_takes(message: bytes, unicode: bool) -> None:
    payloads = split(message, unicode=unicode)
    assert len(set(payloads)) == len(payloads)
    for payload in payloads:
        assert len(payload.encode()) <= LARGEST_PAYLOAD
        assert "\0" not in payload
        assert unicode or payload.isascii()


def test_equal_messages_have_different_payloads() -> None:
    assert split(b"same") != split(b"same")


def test_mostly_ascii_costs_less_than_base64() -> None:
    message = SAMPLES["mostly ASCII"]
    assert sum(map(len, split(message))) < 1.1 * len(message)
    assert sum(map(len, split(SAMPLES["random"]))) < 1.35 * len(SAMPLES["random"])


def test_a_message_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_frames, "_MOST_PARTS", 2)
    assert len(split(b"x" * 15_000)) == 2
    with pytest.raises(PayloadTooLarge, match="this message has 16000"):
        split(b"x" * 16_000)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("", "another program"),
        ("hello", "another program"),
        (".000000\u20ac", "characters that are no bytes"),
        ("=000000?", "not base64"),
        (",000000zzzz0002", "without its number"),
        (",00000000010002x", "beginning is missing"),
    ],
)
def test_what_is_no_message_is_refused(payload: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        Joiner().add(payload)


def test_a_joiner_finds_its_way_after_a_missing_part() -> None:
    joiner, parts = Joiner(), split(SAMPLES["random"])
    for part in parts[:3]:
        assert joiner.add(part) is None
    with pytest.raises(DecodeError):
        joiner.add(parts[4])
    (whole,) = split(b"whole")
    assert joiner.add(whole) == b"whole"
    *parts, last = split(SAMPLES["random"])
    assert [joiner.add(part) for part in parts] == [None] * len(parts)
    assert joiner.add(last) == SAMPLES["random"]


def test_short_ascii_names_are_kept() -> None:
    for name in ("chat", "asgi:g:room", "x" * LONGEST_NAME, 'quo"te'):
        assert channel_name(name) == name


def test_other_names_become_digests() -> None:
    names = ["", "x" * 64, "x" * 65, "ü", "nul\0", "dac#x", channel_name("x" * 64)]
    digests = [channel_name(name) for name in names]
    assert len(set(digests)) == len(names)
    for digest in digests:
        assert len(digest) <= LONGEST_NAME
        assert digest.isascii()
