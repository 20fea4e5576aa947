"""What the subcommands of ``manage.py channels`` share: arguments, layers, output, errors and exit codes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, OutputWrapper
from django.utils.module_loading import import_string

from ...core.exceptions import ChannelLayerError
from ..layer import AnyioChannelLayer
from ..registry import get_channel_layer

_REFUSALS = (ChannelLayerError, ImproperlyConfigured, ChannelFull, MessageTooLarge, TypeError, ValueError)
_MOST_SECONDS = 1e6
_LONGEST_TEXT = 10_000
"""Characters; an error may hold the SQL that cures it."""


class Invocation:
    """One call of the command: its options, and where its output goes."""

    def __init__(self, options: Mapping[str, Any], stdout: OutputWrapper, stderr: OutputWrapper) -> None:
        self.options = options
        self.stdout = stdout
        self.stderr = stderr
        self.is_json: bool = options["json"]

    def layers(self) -> dict[str, AnyioChannelLayer]:
        """Return the layer of ``--alias``, or else all of this package by their aliases."""
        if self.options["alias"] is not None:
            return {self.options["alias"]: get_channel_layer(self.options["alias"])}
        found = {alias: get_channel_layer(alias) for alias, entry in channel_layers.configs.items() if _is_ours(entry)}
        if not found:
            raise CommandError("CHANNEL_LAYERS has no layer of django_anyio_channels. Set the BACKEND of one to it.")
        return found

    def layer(self) -> AnyioChannelLayer:
        """Return the layer of ``--alias``, or else the default one."""
        return get_channel_layer(self.options["alias"] or "default")

    def print(self, text: str = "") -> None:
        """Print one line or several."""
        self.stdout.write(f"{text}\n")
        self.stdout.flush()

    def print_json(self, value: object) -> None:
        """Print one line of JSON; bytes are written in base64."""
        self.print(json.dumps(value, default=_encode))


def add_parser(
    subcommands: Any,
    name: str,
    help: str,
    work: Callable[[Invocation], Awaitable[None]],
) -> ArgumentParser:
    """Add a subcommand with the arguments that all of them have."""
    parser: ArgumentParser = subcommands.add_parser(name, help=help, description=help)
    parser.add_argument("--alias", help="the layer's alias in CHANNEL_LAYERS")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.set_defaults(work=work)
    return parser


def positive_seconds(text: str) -> float:
    """Read an argument."""
    value = float(text)
    if 0 < value <= _MOST_SECONDS:
        return value
    raise ArgumentTypeError(f"{text} is not more than 0 and at most {_MOST_SECONDS:,.0f} seconds")


def positive_count(text: str) -> int:
    """Read an argument."""
    value = int(text)
    if value > 0:
        return value
    raise ArgumentTypeError(f"{text} is not 1 or more")


def run(work: Callable[[Invocation], Awaitable[None]], invocation: Invocation) -> None:
    """Run a subcommand in an event loop. Raises `CommandError` for whatever it is refused."""

    async def main() -> None:
        await work(invocation)

    with _log_to(invocation.stderr):
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            invocation.print()
        except BrokenPipeError:  # who reads the output has seen enough, as `head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written
            sys.exit(1)
        except _REFUSALS as error:
            raise CommandError(printable(str(error))) from error


def printable(text: str) -> str:
    """Return a text of another program without what controls a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)[:_LONGEST_TEXT]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return lines of columns."""
    cells = [headings, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headings))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def seconds(value: float | None) -> str:
    """Return a time for a column."""
    return "-" if value is None else f"{value:.1f} s"


def _is_ours(entry: Mapping[str, Any]) -> bool:
    try:
        backend = import_string(entry["BACKEND"])
    except (ImportError, KeyError):
        return False
    return isinstance(backend, type) and issubclass(backend, AnyioChannelLayer)


def _encode(value: object) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return str(value)


class _Handler(logging.Handler):
    """Prints each warning once: an attempt to connect fails as the one before did."""

    def __init__(self, stream: OutputWrapper) -> None:
        super().__init__(logging.WARNING)
        self._stream = stream
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().partition("; connecting again in")[0]
        if text != self._last:
            self._last = text
            self._stream.write(f"{printable(text)}\n")


@contextmanager
def _log_to(stream: OutputWrapper) -> Iterator[None]:
    """Have warnings of the package printed, and not logged as the project's settings say, which may be anywhere."""
    logger = logging.getLogger("django_anyio_channels")
    handler, propagate = _Handler(stream), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
