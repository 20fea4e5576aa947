"""The SQL statements of ``sql/`` by name, those that cannot have parameters, and parameters as the others take them.

The head of each file says what the statement expects and returns. It is not sent: drivers that substitute parameters
in the text would do so in its comments, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

_FILES = files(__package__) / "sql"


def _load(name: str) -> str:
    lines = (_FILES / f"{name}.sql").read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))


BIND = _load("bind")
COUNT_SUBSCRIBERS = _load("count_subscribers")
PUBLISH = _load("publish")
PUBLISH_TO_BOUND = _load("publish_to_bound")
PURGE = _load("purge")
PUT = _load("put")
PUT_IN_TRANSACTION = _load("put_in_transaction")
PUT_MANY = _load("put_many")
REQUEUE = _load("requeue")
SCHEMA = _load("schema")
SCHEMA_EXISTS = _load("schema_exists")
SERVER_STATE = _load("server_state")
SESSION_SETTINGS = _load("session_settings")
SWEEP = _load("sweep")
TAKE = _load("take")
TRANSACTION_SETTINGS = _load("transaction_settings")
UNBIND = _load("unbind")


def listen(*channels: str) -> str:
    return "; ".join(f"LISTEN {_quoted(channel)}" for channel in channels)


def unlisten(*channels: str) -> str:
    return "; ".join(f"UNLISTEN {_quoted(channel)}" for channel in channels)


def lock_shared(key: int) -> str:
    """Hold a shared advisory lock until the session ends."""
    return f"SELECT pg_advisory_lock_shared({key})"


def unlock_shared(key: int) -> str:
    return f"SELECT pg_advisory_unlock_shared({key})"


def text_array(values: Iterable[object]) -> list[str]:
    r"""Return a parameter for ``$1::text[]::bytea[]`` and its like.

    asyncpg knows arrays of text. Before the first use of any other it asks the server for 10 to 20 ms what that is.
    """
    return [rf"\x{value.hex()}" if isinstance(value, bytes) else str(value) for value in values]


def _quoted(channel: str) -> str:
    return '"' + channel.replace('"', '""') + '"'
