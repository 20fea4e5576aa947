"""What happens to the events for a full mailbox, if newer ones are not to be dropped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from ..core.events import Event
from ..core.exceptions import DecodeError, InvalidOption, SubscriberFull
from ..core.hints import did_you_mean
from ..core.options import TEXT
from .subscriber import Accounts, Overflow, Subscriber, Timestamped, limit_reached, release

POLICIES = ("drop_newest", "drop_oldest", "latest", "close")
WANTED = f"{', '.join(map(repr, POLICIES[:2]))}, 'close', or {{'policy': 'latest', 'key': 'symbol'}}"


class DropOldest:
    """Drops the events that have waited longest. What was put in front is kept."""

    mailbox_class = Subscriber

    def make_room(self, mailbox: Subscriber, accounts: Accounts, items: deque[Timestamped], size: int) -> bool:
        while limit := limit_reached(mailbox, accounts, items, size):
            if len(items) <= accounts.in_front:
                return False
            _remove(items, accounts.in_front, accounts)
            mailbox.count_dropped(accounts, limit)
        return True


class ClosingMailbox(Subscriber):
    """A mailbox that takes no more events once it is closed."""

    __slots__ = ()

    def put(self, entry: Timestamped, *, force: bool = False) -> None:
        if not self._closed:
            super().put(entry, force=force)


def _remove(items: deque[Timestamped], index: int, accounts: Accounts | None) -> None:
    """Remove an event that was not put in front."""
    event = items[index][1]
    del items[index]
    if accounts is not None and index:
        accounts.bytes -= len(event.message)
    elif accounts is not None and items:
        accounts.bytes -= len(items[0][1].message)
    release(event)


def _close(mailbox: Subscriber) -> None:
    mailbox.close(
        SubscriberFull(
            f"{mailbox.name} was read too slowly, and closed when it was full: read faster, or subscribe anew"
        )
    )


class Close:
    """Calls ``close`` with a mailbox that is full, once until half of it is free again. Drops newer events."""

    def __init__(self, close: Callable[[Subscriber], None] = _close, mailbox_class: type[Subscriber] = ClosingMailbox):
        self._close = close
        self.mailbox_class = mailbox_class

    def make_room(self, mailbox: Subscriber, accounts: Accounts, items: deque[Timestamped], size: int) -> bool:
        if not accounts.dropped:
            mailbox.stats.closed += 1
            self._close(mailbox)
        return False


class Latest:
    """Of the events whose messages have the same type and key only the newest waits, in the place of the older one."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._last: tuple[Event[bytes] | None, Hashable] = None, None

    @property
    def mailbox_class(self) -> type[Subscriber]:
        return LatestMailbox

    def make_room(self, mailbox: Subscriber, accounts: Accounts, items: deque[Timestamped], size: int) -> bool:
        return False

    def key_of(self, event: Event[bytes], decode: Callable[[bytes], Any]) -> Hashable:
        """Return what is equal of events that replace each other; None for one that replaces none."""
        # All mailboxes are given the same event one after the other, so that it is decoded once.
        last, key = self._last
        if event is not last:
            key = self._read(event, decode)
            self._last = event, key
        return key

    def _read(self, event: Event[bytes], decode: Callable[[bytes], Any]) -> Hashable:
        try:
            message = decode(event.message)
            found = message.get("type"), message[self._key]
            hash(found)
        except (DecodeError, AttributeError, KeyError, TypeError):  # not decodable, no dict, no such key, a list
            return None
        return found


class LatestMailbox(Subscriber):
    """The mailbox of `Latest`, which begins anew while ``overflow`` is None."""

    __slots__ = ("_waiting",)

    _waiting: dict[Hashable, Timestamped]
    """By their keys, the events that are or were in the mailbox; at most twice as many as wait."""

    def __post_init__(self, new_waiter: Any) -> None:
        super().__post_init__(new_waiter)
        self._waiting = {}

    def put(self, entry: Timestamped, *, force: bool = False) -> None:
        policy = self.overflow
        key = policy.key_of(entry[1], self.decode) if isinstance(policy, Latest) and not force else None
        if key is None:
            super().put(entry, force=force)
            return
        older = self._waiting.pop(key, None)
        if older is None or not self._replace(older, entry):
            dropped = self.dropped
            super().put(entry)
            if self.dropped > dropped:
                return
        self._waiting[key] = entry

    def _replace(self, older: Timestamped, entry: Timestamped) -> bool:
        """Put an event in the place of an older one. Returns whether that still waits, and leaves as much room."""
        items = self._as_deque()
        try:
            index = items.index(older)
        except ValueError:
            return False
        self.stats.replaced += 1
        size, before = len(entry[1].message), len(older[1].message)
        if size > max(before, self._small):
            _remove(items, index, self.accounts)
            return False
        accounts = self.accounts
        if accounts is not None and index:
            accounts.bytes += size - before
        items[index] = entry
        if entry[1].ack_handle is not None:
            entry[1].ack_handle.retain()
        release(older[1])
        return True

    def take(self) -> tuple[Event[bytes], Any] | None:
        found = super().take()
        self._forget()
        return found

    def clear(self) -> None:
        super().clear()
        self._forget()

    def drop_expired(self, now: float) -> None:
        super().drop_expired(now)
        self._forget()

    def _forget(self) -> None:
        if len(self._waiting) > 2 * len(self):
            present = set(map(id, self._items or (self._only,)))
            self._waiting = {key: entry for key, entry in self._waiting.items() if id(entry) in present}


def read_overflow(value: object, *, close: Close | None = None, keeps_order: bool = False) -> Overflow | None:
    """Return the policy that a setting names; None for "drop_newest". Raises `InvalidOption`.

    "latest" is ``{"policy": "latest", "key": name}`` or ``("latest", name)``, where ``name`` is that of a field of the
    messages, which are dicts. What has no such field is treated as with "drop_newest". ``close`` stands for "close".
    With ``keeps_order`` the messages must keep their order.
    """
    policy, key = _parse(value)
    if policy == "latest" and keeps_order:
        raise InvalidOption("overflow 'latest' cannot be used with since", "Omit one: it changes the order of events")
    if policy == "latest" and key is not None:
        return Latest(key)
    return {"drop_newest": None, "drop_oldest": DropOldest(), "close": close or Close()}[policy]


def ordered(overflow: Overflow | None) -> Overflow | None:
    """Return what keeps the order of events, and drops none that waits."""
    return overflow if isinstance(overflow, Close) else None


def _parse(value: object) -> tuple[str, str | None]:
    policy, key, others = value, None, False
    if isinstance(value, Mapping):
        policy, key, others = value.get("policy"), value.get("key"), bool(set(value) - {"policy", "key"})
    elif isinstance(value, (list, tuple)) and len(value) == 2:
        policy, key = value
    if not isinstance(policy, str) or policy not in POLICIES:
        # Not a value of another type: it may be anything.
        shown = f"{policy!r}" if isinstance(policy, str) else f"of type {type(policy).__name__}"
        nearest = did_you_mean(policy, POLICIES, otherwise="")
        raise InvalidOption(f"overflow is {shown}", f"{nearest} It must be {WANTED}".strip())
    if (policy == "latest") != (isinstance(key, str) and TEXT.is_valid(key)) or others:
        raise InvalidOption(
            f"overflow {policy!r} has a wrong 'key'",
            f"'latest' has the name of a field of the messages as its 'key', and nothing else: it must be {WANTED}",
        )
    return policy, key
