"""Which tables and functions the layer makes, where they are, and whether this role may and should use them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ...core.exceptions import NotSupported
from ...core.stats import RateLimitedLogger
from . import statements as sql
from .statements import in_schema


@lru_cache
def _logger(schema: str, user: str) -> RateLimitedLogger:
    return RateLimitedLogger(lines=1, seconds=60.0)


class TableSet(NamedTuple):
    """What one purpose needs, and the SQL that makes it."""

    purpose: str
    tables: tuple[str, ...]
    functions: tuple[str, ...]
    schema: str
    grants: str

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """The parameters of `FIND_TABLES`."""
        return list(self.tables), list(self.functions)

    def find(self, row: Any) -> Tables:
        """Return what `FIND_TABLES` found."""
        return Tables(self, *row)


def _combine(*parts: TableSet) -> TableSet:
    """Return a set with all that some have; its purpose is that of the last."""
    return TableSet(
        parts[-1].purpose,
        tuple(table for part in parts for table in part.tables),
        tuple(function for part in parts for function in part.functions),
        "\n".join(part.schema for part in parts),
        "\n".join(part.grants for part in parts),
    )


QUEUES = TableSet(
    "Normal channels", ("queue", "binding"), ("put(bytea, bytea[], float8[], int, text)",), sql.SCHEMA, sql.GRANTS
)
PRESENCE = TableSet("Presence", ("presence",), (), sql.PRESENCE_SCHEMA, sql.PRESENCE_GRANTS)
KEYS = TableSet("Idempotency keys", ("sent",), (), sql.KEYS_SCHEMA, sql.KEYS_GRANTS)
HISTORIES = _combine(
    QUEUES,
    TableSet(
        "Histories",
        ("position", "history", "outbox", "memory"),
        ("prune(bytea)", "publish(bytea[], text[], text[], bigint, bigint, bigint)", "commit()"),
        sql.HISTORY_SCHEMA,
        sql.HISTORY_GRANTS,
    ),
)
"""With those of queues, which may be bound to groups."""

JOBS = _combine(
    HISTORIES,
    TableSet(
        "Acknowledged channels",
        ("job", "cursor"),
        (
            "put_job(bytea, bytea[], float8[], int, text)",
            "deliver(bytea, bytea, bytea, text, bigint, int, float8)",
        ),
        sql.JOB_SCHEMA,
        sql.JOB_GRANTS,
    ),
)
"""With those of queues and histories, from which acknowledged work comes."""

_PUBLISH_ONCE = TableSet(
    KEYS.purpose,
    (),
    ("publish_once(bytea, text, text, bigint, bigint, bigint, bytea, float8)",),
    sql.KEYS_HISTORY_SCHEMA,
    sql.KEYS_HISTORY_GRANTS,
)
QUEUE_KEYS = _combine(QUEUES, KEYS)
HISTORY_KEYS = _combine(HISTORIES, KEYS, _PUBLISH_ONCE)
JOB_KEYS = _combine(JOBS, KEYS)
EVERYTHING = _combine(JOBS, PRESENCE, KEYS, _PUBLISH_ONCE)


class Tables(NamedTuple):
    """A set of tables, and the row that `FIND_TABLES` returns."""

    made_for: TableSet
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
                f"{where}: {self.made_for.purpose.lower()} need tables, but the search_path of {self.user} names no "
                f"schema that exists and that it may use. Create the schema, GRANT USAGE on it, or correct the "
                f"search_path"
            )
        if self.foreign_owner is not None:
            objects = (*self.made_for.tables, *(function.partition("(")[0] for function in self.made_for.functions))
            *names, last = (f"django_anyio_channels_{name}" for name in objects)
            one_of = " or ".join([", ".join(names), last] if names else [last])
            raise NotSupported(
                f"{where}: {one_of} in the schema {self.schema} belongs to {self.foreign_owner}, which "
                f"could run code with the rights of {self.user}. Make all of them belong to {self.user}, or to the "
                f"owner of the schema or of the database, by ALTER ... OWNER TO; or drop them if nothing needs them"
            )

    @property
    def definition(self) -> str:
        """The SQL that creates the tables, and gives this role the rights that it needs."""
        return f"{in_schema(self.made_for.schema, self.schema)}\n{self.grants}"

    @property
    def grants(self) -> str:
        """The SQL that gives this role the rights that it needs."""
        return in_schema(self.made_for.grants, self.schema).replace("{user}", self.user)

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


def create_all(schema: str, roles: Sequence[str]) -> str:
    """Return the SQL that creates everything in a schema, and gives roles the rights that a layer needs."""
    found = (EVERYTHING.find((schema, False, None, None, sql.quoted(role))) for role in roles)
    return "\n".join([in_schema(EVERYTHING.schema, schema), *(each.grants for each in found)])


def drop_all(schema: str) -> str:
    """Return the SQL that drops everything."""
    return in_schema(sql.DROP, schema)
