"""Names of keys and channels, and Redis Cluster's hash tags, which keep in one slot what one script touches."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from itertools import count

from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

__all__ = ["SLOTS", "key_slot"]

NODES = b"anyio-channels:nodes"
"""What the names begin with of the channels on which nodes speak with each other, and probe their connections."""


SENT = "sent "
"""What an idempotency key's digest follows in the name of a companion."""


def hash_tag(name: bytes) -> bytes:
    """Return the part of a name that its slot is computed from: what its first braces hold, or else all of it."""
    opened = name.find(b"{")
    closed = name.find(b"}", opened + 1)
    return name[opened + 1 : closed] if 0 <= opened < closed - 1 else name


@lru_cache(maxsize=1000)
def hash_tag_for_slot(slot: int) -> bytes:
    """Return the hash tag that stands for a slot; the same in every process."""
    return next(tag for number in count() if key_slot(tag := b"%d" % number) == slot)


@lru_cache(maxsize=10_000)
def companion_key(name: bytes, what: str) -> bytes:
    """Return the key of something that belongs to a group or a queue, in the same slot."""
    tag = hash_tag(name)
    if tag == name:
        if name and b"}" not in name:
            return b"{%b}|%b" % (name, what.encode())
        tag = hash_tag_for_slot(key_slot(name))  # a brace within it would end a tag too soon
    elif name != b"{%b}" % tag:
        return b"%b|%b" % (name, what.encode())
    # The tilde keeps this apart from the companion of a name that begins so.
    return b"{%b}%b|~%b" % (tag, name, what.encode())


def base_key(key: bytes) -> bytes:
    """Return the name that a key is a companion of, or else the key itself."""
    name, _, what = key.rpartition(b"|")
    for candidate in (name[1:-1], name, name.partition(b"}")[2]):
        if companion_key(candidate, what.removeprefix(b"~").decode(errors="replace")) == key:
            return candidate
    return key


def bindings_key(group: bytes) -> bytes:
    """Return the hash of the queues that are bound to a group."""
    return companion_key(group, "queues")


def bound_groups_key(queue: bytes) -> bytes:
    """Return the sorted set of the groups that a queue is bound to, by the ends of their bindings."""
    return companion_key(queue, "groups")


def bindings_marker(scope: bytes) -> bytes:
    """Return the key that exists while a group of a scope may have bindings."""
    return companion_key(scope, "bound")


def sent_key(name: bytes, key: str) -> bytes:
    """Return the key that remembers what was sent to a group or queue under an idempotency key."""
    return companion_key(name, SENT) + blake2b(key.encode(), digest_size=16).hexdigest().encode()


def presence_key(name: bytes) -> bytes:
    """Return the hash of the records of presence of a name."""
    return companion_key(name, "present")


def waiting_key(queue: bytes) -> bytes:
    """Return the list of the nodes that wait for the next message, each with the sequence number of its call."""
    return companion_key(queue, "waiting")


def inflight_key(queue: bytes) -> bytes:
    """Return the hash of what each node was handed last and has not confirmed."""
    return companion_key(queue, "in flight")


def released_key(queue: bytes, node: str) -> bytes:
    """Return the key of the sequence number under which a node returned messages last."""
    return companion_key(queue, f"released by {node}")


def notify_channel(queue: bytes) -> bytes:
    """Return the channel on which nodes learn that an empty queue has a message."""
    return companion_key(queue, "messages")


def delivery_channel(queue: bytes, node: str = "") -> bytes:
    """Return the channel on which a waiting node is handed a message, after its sequence number and a space."""
    return companion_key(queue, f"for {node}")


def nodes_channel(scope: bytes, tag: bytes | None = None) -> bytes:
    """Return the channel on which the nodes of a scope announce themselves, of one master if it is tagged."""
    hash_part = b"" if tag is None else b"{%b}" % tag
    return NODES + hash_part + (b":" + scope if scope else b"")


def probe_channel(node: str, tag: bytes | None = None) -> bytes:
    """Return the channel by which a node probes its own connections."""
    return nodes_channel(b"probe:" + node.encode(), tag)
