"""Suggest the nearest valid name for an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return ``Did you mean 'x'?`` with the nearest of the known names, or ``otherwise`` if none is near.

    Upper and lower case count as equal.
    """
    by_lower_case = {each.lower(): each for each in sorted(known)}
    nearest = get_close_matches(str(name).lower(), by_lower_case, n=1)
    return f"Did you mean {by_lower_case[nearest[0]]!r}?" if nearest else otherwise
