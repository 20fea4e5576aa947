"""What the layer says of the members of a group."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple


class Member(NamedTuple):
    """One member of a group."""

    metas: list[dict[str, Any]]
    """The ``meta`` of each of its channels. After the last one has left, that one's, for the grace period."""
    since: datetime
    """When the first of these channels came; in UTC."""


class GroupCount(NamedTuple):
    """How many are in a group; channels that were added without a member do not count."""

    channels: int
    members: int
