"""Suggest the nearest valid name for an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return ``Did you mean 'x'?`` with the nearest of the known names, or ``otherwise`` if none is near."""
    nearest = get_close_matches(str(name), sorted(known), n=1, cutoff=0.5)
    return f"Did you mean {nearest[0]!r}?" if nearest else otherwise
