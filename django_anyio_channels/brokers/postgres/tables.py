"""Where the tables of queues and presence are, and whether this role may and should use them."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import NamedTuple

from ...core.exceptions import NotSupported
from ...core.stats import RateLimitedLogger
from .statements import GRANTS, SCHEMA, in_schema


@lru_cache
def _logger(schema: str, user: str) -> RateLimitedLogger:
    return RateLimitedLogger(lines=1, seconds=60.0)


class Tables(NamedTuple):
    """The row that `FIND_TABLES` returns."""

    schema: str
    """The schema in which they are, or would be created; empty if the search path has none."""
    are_complete: bool
    foreign_owner: str | None
    """A role that owns one of them, and that this role need not trust."""
    bindings_are_readable: bool | None
    """None if there is no table of bindings."""
    user: str

    def require_usable(self, where: object) -> None:
        """Raise `NotSupported` if there is no schema for the tables, or if they are those of another role."""
        if not self.schema:
            raise NotSupported(
                f"{where}: normal channels need tables, but the search_path of {self.user} names no schema that exists "
                f"and that it may use. Create the schema, GRANT USAGE on it, or correct the search_path"
            )
        if self.foreign_owner is not None:
            raise NotSupported(
                f"{where}: django_anyio_channels_queue, django_anyio_channels_binding, "
                f"django_anyio_channels_presence or the function "
                f"django_anyio_channels_put in the schema {self.schema} belongs to {self.foreign_owner}, which could "
                f"run code with the rights of {self.user}. Have all of them belong to {self.user}, or to the owner of "
                f"the schema or of the database, by ALTER ... OWNER TO; or drop them if nothing of yours needs them"
            )

    @property
    def definition(self) -> str:
        """The SQL that creates the tables, and gives this role the rights that it needs."""
        return in_schema(SCHEMA, self.schema) + self.grants

    @property
    def grants(self) -> str:
        """The SQL that gives this role the rights that it needs."""
        return in_schema(GRANTS, self.schema).replace("{user}", self.user)

    def have_bindings(self) -> bool:
        """Return whether queues may be bound to topics; log if this role may not or should not know."""
        if self.bindings_are_readable is None:
            return False
        if self.foreign_owner is not None:
            self._log_missed(f"a table or the function in the schema {self.schema} belongs to {self.foreign_owner}")
        elif not self.bindings_are_readable:
            self._log_missed(f"GRANT SELECT ON {self.schema}.django_anyio_channels_binding TO {self.user}")
        return self.bindings_are_readable and self.foreign_owner is None

    def _log_missed(self, why: str) -> None:
        text = "Normal channels that are members of groups miss what is sent to them by the role %s: %s"
        _logger(self.schema, self.user).write(logging.WARNING, text, self.user, why)
