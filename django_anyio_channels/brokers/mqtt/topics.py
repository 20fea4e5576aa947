"""Group names as MQTT topics, and patterns as MQTT topic filters.

A group name is its topic, letter for letter, so that groups and devices can meet, except for what MQTT forbids in a
topic: ``+``, ``#``, control characters, surrogates and code points that are no characters. They are written as in a
URL (``%2B``), and so is ``%`` itself, and ``$`` at the beginning, where brokers keep their own topics (read those with
a pattern: ``$SYS/broker/uptime`` is one). The empty name is ``%``. No other group's topic holds a ``%`` that two
hexadecimal digits do not follow; the layer's own topics begin so.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

_FORBIDDEN = "\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef" + "".join(
    f"{chr(plane << 16 | 0xFFFE)}-{chr(plane << 16 | 0xFFFF)}" for plane in range(17)
)
_in_a_name = re.compile(f"[%+#{_FORBIDDEN}]")
_in_a_pattern = re.compile(f"[%{_FORBIDDEN}]")
_LONGEST = 65_535


@lru_cache(maxsize=4096)
def to_topic(group: str) -> bytes:
    """Return the topic of a group. Raises `ValueError` if it has more than 65,535 bytes."""
    if not group:
        return b"%"
    topic = _in_a_name.sub(_escape, group)
    if topic.startswith("$"):
        topic = "%24" + topic[1:]
    return _checked(topic, group)


def to_group(topic: bytes) -> str:
    """Return the group of a topic."""
    if topic == b"%":
        return ""
    if b"%" in topic:
        try:
            return unquote_to_bytes(topic).decode(errors="surrogatepass")
        except UnicodeDecodeError:
            pass  # `to_topic` did not encode it; it stays as it is
    return topic.decode(errors="surrogateescape")


def to_filter(pattern: str) -> bytes:
    """Return the topic filter of a pattern, which is MQTT's own language: ``+`` for one level, ``#`` for all below.

    Raises `ValueError` for what no broker understands.
    """
    levels = pattern.split("/")
    for index, level in enumerate(levels):
        if ("+" in level or "#" in level) and level not in ("+", "#"):
            raise ValueError(f"In the pattern {pattern!r} a + or # must be a whole level between slashes")
        if level == "#" and index != len(levels) - 1:
            raise ValueError(f"In the pattern {pattern!r} the # must be the last level")
    if not pattern:
        raise ValueError("A pattern must not be empty; # matches every topic")
    return _checked(_in_a_pattern.sub(_escape, pattern), pattern)


def matches(topic_filter: bytes, topic: bytes) -> bool:
    """Return whether a subscription with the filter gets what is published to the topic."""
    if topic_filter == topic:
        return True
    wanted, levels = topic_filter.split(b"/"), topic.split(b"/")
    if wanted[0] == b"$share":
        wanted = wanted[2:]
    if topic.startswith(b"$") and wanted[0] in (b"+", b"#"):
        return False
    for index, level in enumerate(wanted):
        if level == b"#":
            return True
        if index >= len(levels) or level not in (b"+", levels[index]):
            return False
    return len(wanted) == len(levels)


def _escape(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))


def _checked(topic: str, name: str) -> bytes:
    encoded = topic.encode()
    if len(encoded) > _LONGEST:
        raise ValueError(f"As an MQTT topic the name {name[:40]!r}... has {len(encoded)} bytes, more than {_LONGEST}")
    return encoded
