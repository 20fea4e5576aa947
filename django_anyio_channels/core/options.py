"""Validate the options of layers and the keys of CONFIG. An error shows the type of a wrong value, never the value."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import NamedTuple

from .exceptions import InvalidOption
from .hints import did_you_mean

LONGEST = 10**9
"""Seconds that every broker and every clock can count: thirty years."""

LARGEST_COUNT = 2**31 - 1
"""The largest count that every broker takes."""


class Option(NamedTuple):
    """What the value of an option must be; ``wanted`` completes "It must be"."""

    is_valid: Callable[[object], bool]
    wanted: str

    @property
    def or_none(self) -> Option:
        """The same, or None."""
        return Option(lambda value: value is None or self.is_valid(value), f"{self.wanted}, or None")

    @property
    def or_digits(self) -> Option:
        """The same, or its digits: that is what an environment variable has."""
        return Option(lambda value: self.is_valid(_number_of(value)), self.wanted)


def seconds(*, zero: bool = False, most: float = LONGEST) -> Option:
    """A finite number of seconds above zero, or from zero."""
    return Option(
        lambda value: _is_number(value) and ((zero and value == 0) or 0 < value <= most),  # type: ignore[operator]
        f"a number of seconds {'from 0' if zero else 'above 0'} up to {most:,}",
    )


def count(unit: str, *, least: int = 1, most: int = LARGEST_COUNT) -> Option:
    """A whole number of something, such as ``"messages"``."""
    return Option(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
        f"a whole number of {unit} from {least:,} to {most:,}",
    )


def choice(*values: object) -> Option:
    """One of these values, and of its type: True is not 1."""
    return Option(
        lambda value: any(type(value) is type(each) and value == each for each in values),
        f"one of {', '.join(map(repr, values))}",
    )


def instance_of(*kinds: type, wanted: str) -> Option:
    """An instance of one of the classes."""
    return Option(lambda value: isinstance(value, kinds), wanted)


SECONDS = seconds()
PORT = count("", most=65_535)._replace(wanted="a port from 1 to 65535").or_digits
TEXT = Option(lambda value: isinstance(value, str) and value != "", "a non-empty str")
FLAG = Option(lambda value: isinstance(value, bool), "True or False")
FILE = Option(
    lambda value: isinstance(value, (str, os.PathLike)) and _is_readable(value), "the path of a readable file"
)

HISTORY_OPTIONS = {
    "history_length": count("messages", least=0),
    "history_age": SECONDS,
    "history_bytes": count("bytes"),
}
"""How much is kept of each group; 0 messages where a history is off."""

ACKNOWLEDGEMENT_OPTIONS = {
    "consumer_group": TEXT.or_none,
    "redeliver_after": SECONDS,
    "deliver_at_most": count("times"),
}


def check_option(name: str, value: object, option: Option) -> None:
    """Raise `InvalidOption` unless the option may have the value."""
    if not option.is_valid(value):
        raise InvalidOption(f"{name} has an invalid value ({type(value).__name__})", f"It must be {option.wanted}")


def check_options(given: Mapping[str, object], options: Mapping[str, Option]) -> None:
    """Check each of the given values that ``options`` describes."""
    for name, option in options.items():
        if name in given:
            check_option(name, given[name], option)


def refuse_unknown_options(
    layer: str, given: Iterable[str], known: Iterable[str], otherwise: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Raise `TypeError` for an option that a layer does not have; its hint is the nearest one, or its own."""
    names = sorted(known)
    for name in given:
        if name not in names:
            hint = otherwise.get(name) or did_you_mean(name, names, otherwise=f"Its options are {', '.join(names)}")
            raise TypeError(f"{layer} has no option {name!r}. {hint}")


def option_names(layer_type: type) -> set[str]:
    """Return the names of the keyword arguments that a class and its base classes take."""
    return {
        name
        for each in layer_type.__mro__
        if "__init__" in vars(each)
        for name, parameter in signature(vars(each)["__init__"]).parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def _is_readable(path: str | os.PathLike[str]) -> bool:
    # Not Path.is_file, which raises for a folder that nobody may enter.
    return os.path.isfile(path) and os.access(path, os.R_OK)  # noqa: PTH113


def _number_of(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
