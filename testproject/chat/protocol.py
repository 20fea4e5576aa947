"""What a page may send: JSON frames, checked before the consumer acts on them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from chat import characters

WORKER = "chat-worker"
"""The normal channel that the background worker reads: ``manage.py runworker chat-worker``."""

ROOM = "[a-z0-9][a-z0-9-]{0,31}"
"""A room's name, as a regular expression."""

FRAME_LIMIT = 8192
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
class Join:
    """Join a room under a name; the first thing a page says."""

    room: str
    name: str
    since: str | None
    """The position of the last message that the page has seen, if it was here before."""


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
class Here:
    """Ask whether the server and its broker are still here, and a worker."""


@dataclass(frozen=True)
class Help:
    """Ask which commands there are."""


Said = Join | Say | Ask | Here | Help


class Refused(Exception):
    """A frame that cannot be acted on; its text is shown to the user."""


def read(frame: str | None) -> Said:
    """Turn one frame into what it asks for. Raises `Refused`, and nothing else, whatever the frame holds."""
    if frame is None:
        raise Refused("This chat speaks JSON text, not binary.")
    if len(frame) > FRAME_LIMIT:
        raise Refused(f"That is more than {FRAME_LIMIT} characters at once.")
    try:
        said = json.loads(frame)
    except (ValueError, RecursionError):
        raise Refused("That is not JSON.") from None
    if not isinstance(said, dict):
        raise Refused("That is JSON, but not an object.")
    match said.get("type"):
        case "join":
            return Join(_room(said.get("room")), _name(said.get("name")), _position(said.get("since")))
        case "say":
            return _say(said.get("text"))
        case "here":
            return Here()
    raise Refused("This chat knows the types join, say and here.")


def _room(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(ROOM, value):
        raise Refused(
            "A room's name is 1 to 32 lower-case letters, digits and hyphens, and doesn't begin with a hyphen."
        )
    return value


def _position(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Refused("The position of the last message is a string, or is left out.")
    return value or None


def _name(value: Any) -> str:
    name = characters.name(_text(value, "name"))
    if not characters.is_visible(name) or len(name) > NAME_LIMIT:
        raise Refused(f"A name has 1 to {NAME_LIMIT} visible characters.")
    return name


def _say(value: Any) -> Say | Ask | Help:
    text = characters.plain(_text(value, "text")).strip()
    if not characters.is_visible(text) or len(text) > TEXT_LIMIT:
        raise Refused(f"A message has 1 to {TEXT_LIMIT} visible characters.")
    return _command(text) if text.startswith("/") else Say(text)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Refused(f"The {what} is missing.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Refused(f"The {what} has half a character in it.")
    return value


def _command(text: str) -> Ask | Help:
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
