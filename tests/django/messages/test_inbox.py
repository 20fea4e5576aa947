"""`django.messages.inbox`: how what is published to an inbox is sealed."""

from __future__ import annotations

import pytest

from django_anyio_channels.django.messages.inbox import CONTROL, seal, unseal


@pytest.mark.parametrize("channel", ["specific.0123456789abcdef!1.ab", CONTROL])
@pytest.mark.parametrize("payload", [b"", b"\x80", b"\n\n"])
def test_an_envelope_is_opened_as_it_was_sealed(channel: str, payload: bytes) -> None:
    assert unseal(seal(channel, payload)) == (channel, payload)


def test_what_is_no_envelope_is_for_no_channel() -> None:
    assert unseal(b"") == (CONTROL, b"")
    assert unseal(b"\xff!\n\x80") == ("\ufffd!", b"\x80")
