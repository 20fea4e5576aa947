"""Bytes and names as NOTIFY carries them."""

from __future__ import annotations

import random

import pytest

from django_anyio_channels import DecodeError, PayloadTooLarge
from django_anyio_channels.brokers.postgres import payloads as postgres_payloads
from django_anyio_channels.brokers.postgres.payloads import (
    MAX_NAME,
    MAX_PAYLOAD,
    PayloadAssembler,
    channel_name,
    encode,
)

SAMPLES = {
    "nothing": b"",
    "every byte": bytes(range(256)),
    "NUL": b"\0" * 5000,
    "high": b"\xff" * 5000,
    "just whole": b"x" * (MAX_PAYLOAD - 7),
    "just too much": b"x" * (MAX_PAYLOAD - 6),
    "mostly ASCII": (b"x" * 50 + b"\x81\0") * 3000,
    "cut within a character": b"xxx\xff" * 5000,
    "random": random.Random(1).randbytes(100_000),
}


@pytest.mark.parametrize("server_encoding", ["UTF8", "LATIN1"])
@pytest.mark.parametrize("message", SAMPLES.values(), ids=SAMPLES)
def test_what_is_encoded_is_assembled(message: bytes, server_encoding: str) -> None:
    assembler = PayloadAssembler()
    for _ in range(2):
        *parts, last = encode(message, server_encoding=server_encoding)
        assert [assembler.add(part) for part in parts] == [None] * len(parts)
        assert assembler.add(last) == message


@pytest.mark.parametrize("server_encoding", ["UTF8", "LATIN1"])
@pytest.mark.parametrize("message", SAMPLES.values(), ids=SAMPLES)
def test_the_server_takes_every_payload(message: bytes, server_encoding: str) -> None:
    payloads = encode(message, server_encoding=server_encoding)
    assert len(set(payloads)) == len(payloads)
    for payload in payloads:
        assert len(payload.encode()) <= MAX_PAYLOAD
        assert "\0" not in payload
        assert server_encoding == "UTF8" or payload.isascii()


def test_equal_messages_have_different_payloads() -> None:
    assert encode(b"same") != encode(b"same")


def test_mostly_ascii_costs_less_than_base64() -> None:
    message = SAMPLES["mostly ASCII"]
    assert sum(map(len, encode(message))) < 1.1 * len(message)
    assert sum(map(len, encode(SAMPLES["random"]))) < 1.35 * len(SAMPLES["random"])


def test_a_message_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_payloads, "_MAX_PARTS", 2)
    assert len(encode(b"x" * 15_000)) == 2
    with pytest.raises(PayloadTooLarge, match="this message has 16000"):
        encode(b"x" * 16_000)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("", "another program"),
        ("hello", "another program"),
        (".000000\u20ac", "characters that are not bytes"),
        ("=000000?", "not base64"),
        (",000000zzzz0002", "without its number"),
        (",00000000010002x", "beginning is missing"),
    ],
)
def test_a_payload_of_another_program_is_refused(payload: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        PayloadAssembler().add(payload)


def test_assembling_recovers_after_a_missing_part() -> None:
    assembler, parts = PayloadAssembler(), encode(SAMPLES["random"])
    for part in parts[:3]:
        assert assembler.add(part) is None
    with pytest.raises(DecodeError):
        assembler.add(parts[4])
    (whole,) = encode(b"whole")
    assert assembler.add(whole) == b"whole"
    *parts, last = encode(SAMPLES["random"])
    assert [assembler.add(part) for part in parts] == [None] * len(parts)
    assert assembler.add(last) == SAMPLES["random"]


def test_short_ascii_names_are_kept() -> None:
    for name in ("chat", "asgi:g:room", "x" * MAX_NAME, 'quo"te'):
        assert channel_name(name) == name


def test_other_names_become_digests() -> None:
    names = ["", "x" * 64, "x" * 65, "ü", "nul\0", "dac#x", channel_name("x" * 64)]
    digests = [channel_name(name) for name in names]
    assert len(set(digests)) == len(names)
    for digest in digests:
        assert len(digest) <= MAX_NAME
        assert digest.isascii()
