"""`core.encryption`: payloads for one place and one time."""

from __future__ import annotations

import math
import sys
from time import time
from typing import Any

import msgspec
import pytest
from cryptography.fernet import Fernet
from hypothesis import example, given
from hypothesis import strategies as st

from django_anyio_channels import DecodeError, MissingDriver
from django_anyio_channels.core.encryption import CLOCK_SKEW, Encryption, _fernet_key

KEYS = Encryption(["secret"])


def encrypt(payload: bytes = b"x", *groups: str, keys: Encryption = KEYS, lifetime: float = 60.0) -> bytes:
    return keys.encrypt(payload, "group", *(groups or ("lobby",)), lifetime=lifetime)


def foreign(plain: bytes) -> bytes:
    """Return what another program encrypts with the same key."""
    return Fernet(_fernet_key("secret")).encrypt(plain)


@given(payload=st.binary(), name=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_payload_comes_back_where_it_was_sent_to(payload: bytes, name: str) -> None:
    assert KEYS.decrypt(KEYS.encrypt(payload, "group", name, lifetime=1.0), "group", name) == payload
    assert KEYS.decrypt(KEYS.encrypt(payload, "queue", name, lifetime=math.inf), "queue", name) == payload


def test_nothing_of_the_payload_is_readable() -> None:
    assert b"attack at dawn" not in encrypt(b"attack at dawn")
    assert encrypt(b"1") != encrypt(b"1")


# ---- places --------------------------------------------------------------------------------------------------------


def test_a_copy_in_another_place_is_refused() -> None:
    token = encrypt()
    with pytest.raises(DecodeError, match="was encrypted for group lobby, and copied to group admins"):
        KEYS.decrypt(token, "group", "admins")
    with pytest.raises(DecodeError, match="was encrypted for group lobby, and copied to queue lobby"):
        KEYS.decrypt(token, "queue", "lobby")


def test_one_token_may_be_for_several_groups() -> None:
    token = encrypt(b"x", "lobby", "kitchen")
    assert KEYS.decrypt(token, "group", "lobby") == KEYS.decrypt(token, "group", "kitchen") == b"x"
    with pytest.raises(DecodeError, match="for group lobby, kitchen, and copied to group admins"):
        KEYS.decrypt(token, "group", "admins")


# ---- times ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the clock of the host that encrypts or decrypts next."""
    now = time()

    def turn(seconds: float) -> None:
        monkeypatch.setattr("django_anyio_channels.core.encryption.time", lambda: now + seconds)

    turn(0)
    return turn


def test_a_token_is_good_for_its_lifetime_on_clocks_that_differ(clock: Any) -> None:
    token = encrypt(lifetime=60.0)
    for seconds in (-CLOCK_SKEW + 1, 60 + CLOCK_SKEW - 1):
        clock(seconds)
        assert KEYS.decrypt(token, "group", "lobby") == b"x"


def test_an_old_token_is_refused(clock: Any) -> None:
    token = encrypt(lifetime=60.0)
    clock(60 + CLOCK_SKEW + 1)
    with pytest.raises(DecodeError, match="it is 91 s old and was for 60 s: a copy, or the clocks of hosts differ"):
        KEYS.decrypt(token, "group", "lobby")
    assert KEYS.decrypt(token, "group", "lobby", late=2.0) == b"x", "as what is delivered again"


def test_a_token_from_the_future_is_refused(clock: Any) -> None:
    clock(CLOCK_SKEW + 5)
    token = encrypt()
    clock(0)
    with pytest.raises(DecodeError, match="it comes from 35 s in the future: the clocks of hosts differ"):
        KEYS.decrypt(token, "group", "lobby")


def test_a_token_without_a_limit_is_never_too_old(clock: Any) -> None:
    token = encrypt(lifetime=math.inf)
    clock(10**9)
    assert KEYS.decrypt(token, "group", "lobby") == b"x"


# ---- keys ----------------------------------------------------------------------------------------------------------


def test_keys_are_rotated_in_three_steps() -> None:
    old, both, new = (Encryption(keys) for keys in (["old"], ["new", "old"], ["new"]))
    assert both.decrypt(encrypt(keys=old), "group", "lobby") == b"x"
    assert both.decrypt(encrypt(keys=new), "group", "lobby") == b"x"
    assert new.decrypt(encrypt(keys=both), "group", "lobby") == b"x", "the first key encrypts"
    with pytest.raises(DecodeError, match="none of symmetric_encryption_keys decrypts it"):
        old.decrypt(encrypt(keys=both), "group", "lobby")
    with pytest.raises(DecodeError):
        new.decrypt(encrypt(keys=old), "group", "lobby")


def test_keys_are_text_or_bytes_of_any_length() -> None:
    for key in ("k", b"k", "k" * 1000, "\N{GRINNING FACE}", b"\0\xff"):
        assert Encryption([key]).decrypt(encrypt(keys=Encryption((key,))), "group", "lobby") == b"x"
    assert Encryption(["k"]).decrypt(encrypt(keys=Encryption([b"k"])), "group", "lobby") == b"x"


@pytest.mark.parametrize("keys", ["key", b"key", [], (), 0, 7, {}, {"a", "b"}])
def test_a_single_key_is_not_a_list_of_keys(keys: Any) -> None:
    with pytest.raises(ValueError, match="symmetric_encryption_keys must be a non-empty list"):
        Encryption(keys)


@pytest.mark.parametrize("key", ["", b"", None, 1])
def test_a_key_is_not_empty(key: Any) -> None:
    with pytest.raises(ValueError, match="must be a non-empty str or bytes"):
        Encryption(["good", key])


def test_encryption_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(MissingDriver, match=r"pip install django-anyio-channels\[encryption\]"):
        Encryption(["key"])


# ---- what others write ---------------------------------------------------------------------------------------------


@given(token=st.binary())
@example(token=b"\xff")
def test_any_other_bytes_are_an_error(token: bytes) -> None:
    with pytest.raises(DecodeError):
        KEYS.decrypt(token, "group", "lobby")


def test_a_token_that_was_tampered_with_is_an_error() -> None:
    token = bytearray(encrypt())
    token[len(token) // 2] ^= 1
    for wrong in (bytes(token), bytes(token[:-5])):
        with pytest.raises(DecodeError, match="none of symmetric_encryption_keys"):
            KEYS.decrypt(wrong, "group", "lobby")


@pytest.mark.parametrize(
    "plain",
    [b"", b"\0\0\0", b"\x81\xa1a\x01", b"\xff\xff\xff\xff\x94", b"\0\0\0\x01\xc0", b"\0\0\0\x01\xc1"],
    ids=repr,
)
def test_what_another_program_encrypts_with_the_key_is_an_error(plain: bytes) -> None:
    """Also what this package encrypted when a payload was bound to nothing."""
    with pytest.raises(DecodeError, match="another version, or another program, encrypted it"):
        KEYS.decrypt(foreign(plain), "group", "lobby")


def test_only_a_whole_head_counts() -> None:
    head = msgspec.msgpack.encode(("group", ["lobby"], 0.0))
    with pytest.raises(DecodeError, match="another version"):
        KEYS.decrypt(foreign(len(head).to_bytes(4, "big") + head + b"x"), "group", "lobby")
