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
DROP = _load("drop")
FIND_TABLES = _load("find_tables")
GRANTS = _load("grants")
HISTORY_COUNT = _load("history_count")
HISTORY_FORGET = _load("history_forget")
HISTORY_GRANTS = _load("history_grants")
HISTORY_LATEST = _load("history_latest")
HISTORY_MEMORY = _load("history_memory")
HISTORY_PAGE = _load("history_page")
HISTORY_POSITION = _load("history_position")
HISTORY_PRUNE = _load("history_prune")
HISTORY_PRUNE_ONE = _load("history_prune_one")
HISTORY_PUBLISH = _load("history_publish")
HISTORY_PUBLISH_ONCE = _load("history_publish_once")
HISTORY_PUBLISH_ONE = _load("history_publish_one")
HISTORY_PURGE = _load("history_purge")
HISTORY_REMOVE = _load("history_remove")
HISTORY_SCHEMA = _load("history_schema")
HISTORY_SEND = _load("history_send")
INSPECT_QUEUES = _load("inspect_queues")
JOB_ACKNOWLEDGE = _load("job_acknowledge")
JOB_DELIVER = _load("job_deliver")
JOB_GRANTS = _load("job_grants")
JOB_INSPECT = _load("job_inspect")
JOB_JOIN = _load("job_join")
JOB_LENGTH = _load("job_length")
JOB_PURGE = _load("job_purge")
JOB_PUT = _load("job_put")
JOB_PUT_IN_TRANSACTION = _load("job_put_in_transaction")
JOB_RELEASE = _load("job_release")
JOB_SCHEMA = _load("job_schema")
JOB_SWEEP = _load("job_sweep")
KEYS_GRANTS = _load("keys_grants")
KEYS_HISTORY_GRANTS = _load("keys_history_grants")
KEYS_HISTORY_SCHEMA = _load("keys_history_schema")
KEYS_PURGE = _load("keys_purge")
KEYS_SCHEMA = _load("keys_schema")
KEYS_SWEEP = _load("keys_sweep")
LISTEN_SETTINGS = _load("listen_settings")
PRESENCE_GRANTS = _load("presence_grants")
PRESENCE_PURGE = _load("presence_purge")
PRESENCE_PUT = _load("presence_put")
PRESENCE_READ = _load("presence_read")
PRESENCE_REMOVE = _load("presence_remove")
PRESENCE_SCHEMA = _load("presence_schema")
PRESENCE_SWEEP = _load("presence_sweep")
PUBLISH = _load("publish")
PUBLISH_ONCE = _load("publish_once")
PUBLISH_TO_BOUND = _load("publish_to_bound")
PURGE = _load("purge")
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
TAKE = _load("take")
TRANSACTION_SETTINGS = _load("transaction_settings")
TRY_LOCKS_SHARED = _load("try_locks_shared")
UNBIND = _load("unbind")
JOB_PUT_ONCE = PUT_ONCE.replace("django_anyio_channels_put(", "django_anyio_channels_put_job(")
"""The same for a message that is to outlive a crash."""


@lru_cache
def in_schema(statement: str, schema: str) -> str:
    """Return a statement on the tables in ``schema``."""
    return statement.replace("{schema}", quoted(schema))


def listen(*channels: str) -> str:
    return "; ".join(f"LISTEN {quoted(channel)}" for channel in channels)


def unlisten(*channels: str) -> str:
    return "; ".join(f"UNLISTEN {quoted(channel)}" for channel in channels)


def unlock_shared(key: int) -> str:
    return f"SELECT pg_catalog.pg_advisory_unlock_shared({key})"


def bytes_as_text(value: bytes) -> str:
    """Return a parameter for ``$1::text::bytea`` and its like."""
    return rf"\x{value.hex()}"


def text_array(values: Iterable[object]) -> list[str]:
    r"""Return a parameter for ``$1::text[]::bytea[]`` and its like.

    asyncpg knows arrays of text. Before the first use of any other it asks the server for 10 to 20 ms what that is.
    """
    return [bytes_as_text(value) if isinstance(value, bytes) else str(value) for value in values]


def quoted(name: str) -> str:
    """Return the name of a schema, a role or a channel for a statement."""
    return '"' + name.replace('"', '""') + '"'
