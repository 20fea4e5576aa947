"""The package speaks in the terms of its field: words that were once used for them are gone, everywhere.

A word is looked for in identifiers, docstrings, comments and messages alike: ``ring all`` is found in ``ring_all`` and
``RingAll`` too.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "django_anyio_channels"

WORDS = {
    "bell": "notifier",
    "bequeath": "hand off",
    "bury": "dead-letter",
    "buries": "fails",
    "buried": "dead-lettered",
    "candidacy": "election",
    "census": "peer barrier",
    "courier": "dispatcher",
    "deaf": "lost, unlistened",
    "desk": "consumer, readers",
    "everybody": "all peers",
    "fly": "flush",
    "flies": "is flushed",
    "flying": "in flight",
    "give back": "release",
    "given back": "released",
    "good bye": "close",
    "goodbye": "close",
    "hands of": "pending at",
    "hear": "receive",
    "heard": "received",
    "hears": "receives",
    "heir": "successor",
    "heirs": "successors",
    "hungry": "wants more",
    "in hands": "pending",
    "in peace": "gracefully",
    "in the hands": "pending",
    "inherit": "adopt",
    "insist": "retry",
    "junction": "bridged group",
    "keeper": "queue owner",
    "keepers": "queue owners",
    "last words": "drain",
    "legacies": "hand-offs",
    "legacy": "hand-off",
    "life": "session",
    "losses": "delivery stats",
    "mailroom": "inbox",
    "obey": "handle",
    "obeys": "handles",
    "politely": "gracefully",
    "ring all": "notify all",
    "said": "published, replied",
    "somebody": "a caller, a peer",
    "speaker": "command executor",
    "stranded": "undelivered",
    "taker": "waiter",
    "takers": "waiters",
    "tidy": "prune",
    "told": "requested, notified",
    "whose hands": "pending",
}
"""What is not written, in any case and any spelling, and what may be meant."""

NAMES = {
    "Accepted": "PublishResult",
    "Acknowledging": "SupportsAcknowledgement",
    "Arrivals": "EventStream",
    "Bell": "Notifier",
    "BindsElsewhere": "nothing: the hub puts into bound queues",
    "BoundedLog": "RateLimitedLogger",
    "Courier": "Dispatcher",
    "Frame": "HistoryEntry",
    "Foreign": "InvalidRequest",
    "Histories": "HistorySync",
    "Hosted": "_LoopEntry",
    "Joiner": "PayloadAssembler",
    "Junction": "BridgedGroup",
    "Life": "Session",
    "Line": "Supervisor",
    "Link": "Supervisor",
    "LoopEnded": "EventLoopClosed",
    "Losses": "DeliveryStats",
    "Mailroom": "_Inbox",
    "Merge": "StreamMerger",
    "Naming": "BrokerNames",
    "Note": "ConfigWarning",
    "PerLoop": "LoopLocal",
    "Receipt": "AckHandle",
    "Rejoining": "ReplaySink",
    "Room": "Session",
    "ShardedChannelLayer": "a list of layers",
    "Spawn": "start_soon",
    "Speaker": "CommandExecutor",
    "Statements": "QueryGenerator",
    "Takers": "WaiterQueue",
    "Topics": "SubscriptionRegistry",
    "TransactionalPublisher": "SupportsTransactions",
    "Wire": "Connection",
    "bury_with": "DeadLetters of hub/consumer_group",
    "deliver_at_once": "set_event_handler",
    "keep_no_history": "disable_history",
    "outlast": "retry_forever",
    "put_bound_with": "nothing: the hub puts into bound queues",
    "room_again": "log_recovered",
    "take_event": "receive_event",
    "take_job": "receive_job",
}
"""Identifiers of Python that are gone, with or without underscores before them, and what stands in their place."""

ALLOWED: dict[tuple[str, str], str] = {("django/telemetry/tracing.py", "Link"): "OpenTelemetry's class"}
"""A file of the package and a word that it may use -> the reason."""


def words(line: str) -> str:
    """The words of a line, those in identifiers too, in lower case and between single spaces."""
    found = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", line)
    return f" {' '.join(word.lower() for word in found)} "


def findings(text: str, *, is_python: bool = True) -> list[tuple[int, str, str]]:
    """Line, banned word or name, and what may be meant."""
    found = [
        (number, word, better)
        for number, line in enumerate(map(words, text.splitlines()), 1)
        for word, better in WORDS.items()
        if f" {word} " in line
    ]
    if is_python:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        names = ((token.start[0], token.string.lstrip("_")) for token in tokens if token.type == tokenize.NAME)
        found += [(number, name, NAMES[name]) for number, name in names if name in NAMES]
    return sorted(found)


def sources(package: Path) -> Iterator[Path]:
    for file in sorted(package.rglob("*")):
        if file.suffix in (".py", ".lua", ".sql"):
            yield file


def test_words_of_the_past_are_gone() -> None:
    found = [
        f"{name}:{number}: {word!r}; say {better}"
        for file in sources(PACKAGE)
        for name in [file.relative_to(PACKAGE).as_posix()]
        for number, word, better in findings(file.read_text(), is_python=file.suffix == ".py")
        if (name, word) not in ALLOWED
    ]
    assert not found, "\n".join(["", *found])


def test_what_is_allowed_is_used() -> None:
    for (name, word), reason in ALLOWED.items():
        assert word in {found for _, found, _ in findings((PACKAGE / name).read_text())}, (name, word)
        assert reason


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("# the bell rings", "bell"),
        ("class _LoopBell: ...", "bell"),
        ("def ring_all(self): ...", "ring all"),
        ("RING_ALL = 1", "ring all"),
        ("self._last_words()", "last words"),
        ("async def end(self, life: _Life): ...", "life"),
        ("class _Wire(Protocol): ...", "Wire"),
        ("_bury_with = None", "bury_with"),
    ],
)
def test_a_word_is_found_however_it_is_written(line: str, word: str) -> None:
    assert word in {found for _, found, _ in findings(line)}


@pytest.mark.parametrize("line", ["# a lifetime", "belly = 1", "# Line by line, over the wire", "Wired = 1"])
def test_other_words_are_not(line: str) -> None:
    assert findings(line) == []
