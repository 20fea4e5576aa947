"""What people type, without characters that disturb others or that nobody can see."""

from __future__ import annotations

import re
import unicodedata

DISTURBING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line break, and those that turn the direction of what follows."""

INVISIBLE = re.compile(
    r"[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2060-\u206f\u2800\u3164\ufeff\uffa0"
    r"\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Characters without a shape of their own, but for joiners and variants, which emoji and several scripts need."""

IDLE_JOINERS = re.compile(r"(?<![^\x00-\x7f])[\u200c\u200d\ufe00-\ufe0f]+|[\u200c\u200d]+(?![^\x00-\x7f])")
"""Joiners and variants beside ASCII or at an end, where they change nothing that one sees."""


def plain(text: str) -> str:
    """The text without what could disturb its surroundings."""
    return DISTURBING.sub("", text)


def is_visible(text: str) -> bool:
    """Whether there is a letter, a digit, a punctuation mark or a symbol in it."""
    return any(unicodedata.category(letter)[0] in "LNPS" for letter in INVISIBLE.sub("", text))


def name(text: str) -> str:
    """The text as a name in one line, the same for all texts that differ only in what nobody sees."""
    seen = INVISIBLE.sub("", unicodedata.normalize("NFC", plain(text)))
    return " ".join(IDLE_JOINERS.sub("", seen).split())
