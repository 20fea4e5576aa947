"""What a window may say in its room, checked before the consumer acts on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from chat import characters

WORKER = "chat-worker"
"""The normal channel that the background worker reads: ``manage.py runworker chat-worker``."""

ROOM = "[a-z0-9][a-z0-9-]{0,31}"
"""A room's name, as a regular expression."""

NAME_LIMIT = 32
TEXT_LIMIT = 2000
DICE_LIMIT = 20
SIDES_LIMIT = 1000
NUMBER_LIMIT = 10**14

HELP = (
    f"/roll 2d6 rolls up to {DICE_LIMIT} dice of up to {SIDES_LIMIT} sides, "
    "/factor 360 finds the prime factors of a number of up to 14 digits. The background worker does both."
)


@dataclass(frozen=True)
class Say:
    """Say something to all in the room."""

    text: str


@dataclass(frozen=True)
class Ask:
    """Have the background worker do a task and answer to all in the room."""

    text: str
    task: str
    numbers: list[int]


@dataclass(frozen=True)
class Help:
    """Ask which commands there are."""


@dataclass(frozen=True)
class Look:
    """Ask whether a worker runs."""


class Refused(Exception):
    """A message that cannot be acted on; its text is shown to the user."""


def read(message: Any) -> Say | Ask | Help | Look:
    """Turn a message into what it asks for. Raises `Refused`, and nothing else, whatever the message is."""
    match message:
        case {"type": "say", "id": str(id), "text": str(text)} if re.fullmatch("[a-z0-9]{1,64}", id):
            return _say(characters.plain(text).strip())
        case {"type": "look"}:
            return Look()
    raise Refused("This chat knows two types of messages: say, with an id and a text, and look.")


def name_of(token: str | None) -> str:
    """The name of who comes in with this token, or nothing if it is none."""
    name = characters.name(token or "")
    return name if characters.is_visible(name) and len(name) <= NAME_LIMIT else ""


def _say(text: str) -> Say | Ask | Help:
    if not characters.is_visible(text) or len(text) > TEXT_LIMIT:
        raise Refused(f"A message has 1 to {TEXT_LIMIT} visible characters.")
    if not text.startswith("/"):
        return Say(text)
    command, _, rest = text.partition(" ")
    match command.lower():
        case "/roll":
            return _roll(text, rest.strip() or "1d6")
        case "/factor":
            return _factor(text, rest.strip())
        case "/help":
            return Help()
    raise Refused(f"There is no command {command[:NAME_LIMIT]}. {HELP}")


def _roll(text: str, dice: str) -> Ask:
    found = re.fullmatch(r"([0-9]{0,2})[dD]([0-9]{1,4})", dice)
    count, sides = (int(found[1] or 1), int(found[2])) if found else (0, 0)
    if not (1 <= count <= DICE_LIMIT and 2 <= sides <= SIDES_LIMIT):
        raise Refused(f"Roll 1 to {DICE_LIMIT} dice of 2 to {SIDES_LIMIT} sides, for example /roll 2d6.")
    return Ask(text, "roll", [count, sides])


def _factor(text: str, number: str) -> Ask:
    if not re.fullmatch("[0-9]{1,15}", number) or not 2 <= int(number) <= NUMBER_LIMIT:
        raise Refused("Give /factor a whole number from 2 to 100000000000000, for example /factor 360.")
    return Ask(text, "factor", [int(number)])
