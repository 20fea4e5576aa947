"""Groups that are plain topics, for devices that know nothing of Channels.

What a device publishes reaches every member as one fixed message, ``{"type": "mqtt.message", "topic": ...,
"payload": ...}``: a device can choose the payload, never the type, so never the method of a consumer. A payload that is
not of the agreed kind is dropped and logged. In the other direction ``group_send`` of such a message publishes its
payload.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ...core.encryption import Encryption
from ...core.exceptions import NotSupported, PayloadTooLarge
from ...core.hints import did_you_mean
from ...core.serializers import MARKER, Serializer, encode_limited
from ...core.stats import RateLimitedLogger
from .packets import Publish
from .topics import matches, to_filter

MESSAGE_TYPE = "mqtt.message"
_MESSAGE_KEYS = {"type", "topic", "payload"}

_RULE_KEYS = ("topic", "payload", "qos", "retain")
_PAYLOADS = ("json", "bytes")
_GROUP = re.compile(r"[a-zA-Z0-9\-_.]+")
_VARIABLE = re.compile(r"\{([a-z_]+)\}")
_VALUE = "[a-zA-Z0-9_-]+"

_from_json = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Rule:
    """Maps groups to topics."""

    group: re.Pattern[str]
    topic: str
    """With the variables of the group in braces; ``+`` and ``#`` as in every topic filter."""
    payload: str = "json"
    qos: int | None = None
    retain: bool = False


@dataclass(frozen=True)
class BridgedGroup:
    """One group that is a topic of devices."""

    group: str
    topic_filter: bytes
    rule: Rule
    bridge: Bridge

    def from_device(self, message: Publish) -> bytes | None:
        """Return the payload for the members of the group. An invalid message is logged, and None returned."""
        try:
            # JSON may shrink when it is decoded, and decoding it costs more than its size says.
            if len(message.payload) > self.bridge.limit:
                raise PayloadTooLarge(f"max_message_size is {self.bridge.limit} bytes")
            payload = _from_json(message.payload) if self.rule.payload == "json" else message.payload
            event = {"type": MESSAGE_TYPE, "topic": message.topic.decode(), "payload": payload}
            return self.bridge.encode(event, self.group)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            text = "Dropped %d bytes from topic %r for group %s, whose payload is %s: %s"
            args = (len(message.payload), message.topic.decode(errors="replace"), self.group, self.rule.payload, error)
            self.bridge.log.write(logging.WARNING, text, *args)
            return None

    def to_device(self, encoded: bytes) -> tuple[bytes, bytes]:
        """Return topic and payload for an encoded message to the group. Raises `TypeError` if it is for no device."""
        topic, message = self.topic_filter.decode(), self.bridge.decode(encoded, self.group)
        if message.get("type") != MESSAGE_TYPE or "payload" not in message or set(message) - _MESSAGE_KEYS:
            raise TypeError(
                f"Group {self.group} is the MQTT topic {topic}, so its messages must be "
                f'{{"type": "{MESSAGE_TYPE}", "payload": ...}} (and "topic", if that has wildcards); '
                f"not one with the keys {sorted(map(str, message))} and the type {message.get('type')!r}"
            )
        return self._topic_of(message.get("topic", topic)), self._payload_of(message["payload"])

    def _topic_of(self, topic: Any) -> bytes:
        if isinstance(topic, str) and not {"+", "#", "\0"} & set(topic) and matches(self.topic_filter, topic.encode()):
            return topic.encode()
        raise TypeError(
            f"A message to group {self.group} must name a topic without wildcards that matches "
            f'{self.topic_filter.decode()}: "topic" is {topic!r}'
        )

    def _payload_of(self, payload: Any) -> bytes:
        if self.rule.payload == "bytes":
            if isinstance(payload, bytes):
                return payload
            raise TypeError(f"The payload of a message to group {self.group} must be bytes, not {payload!r:.80}")
        try:
            return json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            raise TypeError(f"The payload of a message to group {self.group} cannot be JSON: {error}") from error


class Bridge:
    """Finds the topic of a group.

    ``rules`` maps groups to topics: ``{"kitchen": "home/kitchen/temperature"}``. Variables in braces stand for
    letters, digits, ``-`` and ``_``, the same in group and topic: ``{"lamp.{name}": "home/{name}/lamp"}``. A topic may
    have MQTT's wildcards. Instead of the topic a dict may stand: ``topic``; ``payload``, which is ``"json"`` (the
    default) or ``"bytes"``; ``qos`` and ``retain`` of what the group publishes. Of several rules the first counts.

    ``group_prefix`` is what the layer's names of groups begin with, ``serializer`` encodes the messages of members, and
    ``limit`` is their size in bytes. With ``encryption`` they are encrypted, but not those of devices. Raises
    `TypeError` and `ValueError` for rules that cannot be used.
    """

    def __init__(
        self,
        rules: Mapping[str, Any],
        group_prefix: str,
        serializer: Serializer,
        limit: int,
        encryption: Encryption | None = None,
    ) -> None:
        if not isinstance(rules, Mapping):
            raise TypeError(f"it must be a dict from groups to MQTT topics, not {rules!r}")
        self._serializer = serializer
        self._encryption = encryption
        self.log: RateLimitedLogger = RateLimitedLogger()
        self._group_prefix = group_prefix
        self.limit = limit
        self._rules = [_read_rule(group, rule, group_prefix) for group, rule in rules.items()]

    def encode(self, event: Mapping[str, Any], group: str) -> bytes:
        """Return a device's message as members get it from the group."""
        payload = encode_limited(self.limit, self._serializer, event)
        if self._encryption is None:
            return payload
        return self._encryption.encrypt(payload, "group", self._group_prefix + group, lifetime=0.0)

    def decode(self, message: bytes, group: str) -> Any:
        """Return what was sent to the group. Raises `NotSupported` for what a device could not make of it."""
        if self._encryption is not None:
            message = self._encryption.decrypt(message, "group", self._group_prefix + group)
        if message[:1] == MARKER:
            raise NotSupported(
                f"Group {group} is an MQTT topic, which holds plain payloads of devices: send to it alone, without "
                f"exclude, and do not close it"
            )
        return self._serializer.decode(message)

    def find(self, name: str) -> BridgedGroup | None:
        """Return the topic for a group's name in the layer; None if no rule is for it."""
        if not name.startswith(self._group_prefix):
            return None
        group = name[len(self._group_prefix) :]
        for rule in self._rules:
            found = rule.group.fullmatch(group)
            if found is not None:
                topic = rule.topic
                for variable, value in found.groupdict().items():
                    topic = topic.replace(f"{{{variable}}}", value)
                return BridgedGroup(group, topic.encode(), rule, self)
        return None


def _read_rule(group: object, rule: Any, group_prefix: str) -> Rule:
    if not isinstance(group, str) or not _GROUP.fullmatch(_VARIABLE.sub("x", group)):
        raise ValueError(
            f"{group!r} is not the name of a group: letters, digits, '-', '_' and '.', and variables such as {{name}}"
        )
    given = {"topic": rule} if isinstance(rule, str) else rule
    if not isinstance(given, Mapping) or not isinstance(given.get("topic"), str):
        raise TypeError(f"group {group!r} needs a topic, or a dict with 'topic' in it, not {rule!r}")
    unknown = sorted(set(given) - set(_RULE_KEYS), key=repr)
    if unknown:
        hint = did_you_mean(unknown[0], _RULE_KEYS, otherwise=f"The keys are {', '.join(_RULE_KEYS)}.")
        raise ValueError(f"group {group!r} has the unknown key {unknown[0]!r}. {hint}")
    made = Rule(_pattern(group), **given)
    if made.payload not in _PAYLOADS:
        raise ValueError(f"the payload of group {group!r} must be 'json' or 'bytes', not {made.payload!r}")
    if made.qos not in (None, 0, 1, 2) or not isinstance(made.retain, bool):
        raise ValueError(f"qos of group {group!r} must be 0, 1 or 2, and retain True or False")
    _check_topic(group, made.topic, group_prefix)
    return made


def _pattern(group: str) -> re.Pattern[str]:
    names = _VARIABLE.findall(group)
    if len(set(names)) < len(names):
        raise ValueError(f"group {group!r} has a variable twice")
    parts = _VARIABLE.split(group)
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [f"(?P<{name}>{_VALUE})" for name in names]
    return re.compile("".join(parts))


def _check_topic(group: str, topic: str, group_prefix: str) -> None:
    if set(_VARIABLE.findall(topic)) != set(_VARIABLE.findall(group)):
        raise ValueError(f"group {group!r} and topic {topic!r} must have the same variables")
    example = _VARIABLE.sub("x", topic)
    to_filter(example)
    if "%" in example or example.startswith(("$", "+", "#", group_prefix.partition(":")[0] + ":")):
        raise ValueError(
            f"group {group!r} cannot be the topic {topic!r}: the broker and this layer use such topics themselves"
        )
