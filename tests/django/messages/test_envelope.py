"""The envelope of messages that are not simply for all members of a group; anybody may write one."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_anyio_channels import DecodeError
from django_anyio_channels.core.serializers import MARKER
from django_anyio_channels.django.messages.envelope import (
    MOST_NAMES,
    Header,
    close_envelope,
    open_envelope,
    payload_for,
)


def written(header: object, body: bytes = b"\x80") -> bytes:
    packed: bytes = msgpack.packb(header)
    return MARKER + len(packed).to_bytes(2, "big") + packed + body


@pytest.mark.parametrize(
    "header",
    [
        Header(),
        Header(exclude=["a!b"]),
        Header(groups=["g", "h"], id=b"12345678"),
        Header(exclude=["c" * 100] * MOST_NAMES, groups=["g" * 100] * MOST_NAMES, id=b"1", urgent=True),
    ],
)
def test_what_is_closed_can_be_opened(header: Header) -> None:
    assert open_envelope(close_envelope(header, b"\x80")) == (header, b"\x80")


def test_keys_of_other_versions_are_ignored() -> None:
    assert open_envelope(written({"x": ["a"], "new": {"deep": [1]}})) == (Header(exclude=["a"]), b"\x80")


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\xc1\xff\xff\x80",
        b"\xc1\x00\x00\x80",
        written([]),
        written({"x": "a"}),
        written({"x": [1]}),
        written({"x": ["a" * 101]}),
        written({"x": ["a"] * (MOST_NAMES + 1)}),
        written({"g": ["a"] * (MOST_NAMES + 1)}),
        written({"i": b"1" * 17}),
        written({"x": [b"\xff"]}),
        b"\xc1\xff\xff" + b"\x91" * 65535,
    ],
)
def test_what_is_no_envelope_is_an_error(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        open_envelope(payload)


@given(st.binary(max_size=80))
def test_nothing_else_is_raised(noise: bytes) -> None:
    try:
        assert open_envelope(MARKER + noise)
    except DecodeError as error:
        assert str(error)


def test_a_normal_channel_gets_what_does_not_exclude_it() -> None:
    assert payload_for("jobs", b"\x80") == b"\x80"
    envelope = close_envelope(Header(exclude=["jobs"]), b"\x80")
    assert payload_for("jobs", envelope) is None
    assert payload_for("other", envelope) == b"\x80"
