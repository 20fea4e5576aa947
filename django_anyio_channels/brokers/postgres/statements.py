"""The SQL statements of ``sql/`` by name, those that cannot have parameters, and parameters as the others take them.

The head of each file says what the statement expects and returns. It is not sent: drivers that substitute parameters
in the text would do so in its comments, too. ``{schema}`` is the schema of the tables; see `in_schema`. Functions have
theirs, too: another role may have made one of the same name that fits the parameters better. The same holds for
operators, so what is left and right of one has the very types of one in pg_catalog.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files

_FILES = files(__package__) / "sql"


def _load(name: str) -> str:
    lines = (_FILES / f"{name}.sql").read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))


BIND = _load("bind")
COUNT_SUBSCRIBERS = _load("count_subscribers")
FIND_KEYS = _load("find_keys")
FIND_TABLES = _load("find_tables")
GRANTS = _load("grants")
KEYS_GRANTS = _load("keys_grants")
KEYS_SCHEMA = _load("keys_schema")
INSPECT_QUEUES = _load("inspect_queues")
LISTEN_SETTINGS = _load("listen_settings")
PRESENCE_PUT = _load("presence_put")
PRESENCE_READ = _load("presence_read")
PRESENCE_REMOVE = _load("presence_remove")
PUBLISH = _load("publish")
PUBLISH_ONCE = _load("publish_once")
PUBLISH_TO_BOUND = _load("publish_to_bound")
PURGE = _load("purge")
PURGE_KEYS = _load("purge_keys")
PUT = _load("put")
PUT_IN_TRANSACTION = _load("put_in_transaction")
PUT_MANY = _load("put_many")
PUT_ONCE = _load("put_once")
QUEUE_LENGTH = _load("queue_length")
REQUEUE = _load("requeue")
SCHEMA = _load("schema")
SERVER_SETUP = _load("server_setup")
SERVER_STATE = _load("server_state")
SESSION_SETTINGS = _load("session_settings")
SWEEP = _load("sweep")
SWEEP_KEYS = _load("sweep_keys")
TAKE = _load("take")
TRANSACTION_SETTINGS = _load("transaction_settings")
TRY_LOCKS_SHARED = _load("try_locks_shared")
UNBIND = _load("unbind")


@lru_cache
def in_schema(statement: str, schema: str) -> str:
    """Return a statement on the tables in ``schema``."""
    return statement.replace("{schema}", _quoted(schema))


def listen(*channels: str) -> str:
    return "; ".join(f"LISTEN {_quoted(channel)}" for channel in channels)


def unlisten(*channels: str) -> str:
    return "; ".join(f"UNLISTEN {_quoted(channel)}" for channel in channels)


def unlock_shared(key: int) -> str:
    return f"SELECT pg_catalog.pg_advisory_unlock_shared({key})"


def text_array(values: Iterable[object]) -> list[str]:
    r"""Return a parameter for ``$1::text[]::bytea[]`` and its like.

    asyncpg knows arrays of text. Before the first use of any other it asks the server for 10 to 20 ms what that is.
    """
    return [rf"\x{value.hex()}" if isinstance(value, bytes) else str(value) for value in values]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
