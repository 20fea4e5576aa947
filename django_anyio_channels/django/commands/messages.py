"""``manage.py channels send``, ``group-send``, ``listen`` and ``flush``."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from django.core.management.base import CommandError

from ..messages.group_message import position_of
from .running import Invocation, add_parser, positive_count, positive_seconds


def add_arguments(subcommands: Any) -> None:
    """Add the subcommands."""
    message = 'the message as JSON, such as \'{"type": "chat.message", "text": "hi"}\'; - reads it from standard input'
    parser = add_parser(subcommands, "send", "Send a message to a channel.", _send)
    parser.add_argument("channel")
    parser.add_argument("message", help=message)
    parser = add_parser(subcommands, "group-send", "Send a message to a group.", _group_send)
    parser.add_argument("group")
    parser.add_argument("message", help=message)
    text = "Print what is sent to a group, one line of JSON for each message, until interrupted."
    parser = add_parser(subcommands, "listen", text, _listen)
    parser.add_argument("group")
    parser.add_argument("--count", type=positive_count, metavar="N", help="end after so many messages")
    parser.add_argument(
        "--timeout", type=positive_seconds, metavar="SECONDS", help="end after so long; with --count a failure"
    )
    parser.add_argument("--last", type=int, default=0, metavar="N", help="begin with the last messages of the history")
    text = "Drop all messages of normal channels, and all memberships in all processes."
    parser = add_parser(subcommands, "flush", text, _flush)
    parser.add_argument("--no-input", "--noinput", action="store_false", dest="interactive", help="do not ask")


def _read_message(invocation: Invocation) -> dict[str, Any]:
    text = invocation.options["message"]
    try:
        message = json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"The message is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise CommandError('The message must be a JSON object, such as {"type": "chat.message"}.')
    return message


async def _send(invocation: Invocation) -> None:
    message, channel = _read_message(invocation), invocation.options["channel"]
    await invocation.layer().send(channel, message)
    _confirm(invocation, {"channel": channel}, f"Sent to the channel {channel}.")


async def _group_send(invocation: Invocation) -> None:
    message, group = _read_message(invocation), invocation.options["group"]
    await invocation.layer().group_send(group, message)
    _confirm(invocation, {"group": group}, f"Sent to the group {group}.")


def _confirm(invocation: Invocation, result: dict[str, Any], text: str) -> None:
    if invocation.is_json:
        invocation.print_json(result)
    else:
        invocation.print(text)


async def _listen(invocation: Invocation) -> None:
    layer, group, count = invocation.layer(), invocation.options["group"], invocation.options["count"]
    channel = await layer.new_channel()
    if invocation.options["last"]:
        await layer.group_resume(group, channel, last=invocation.options["last"])
    else:
        await layer.group_add(group, channel)
    invocation.stderr.write(f"Listening to the group {group}.\n")
    received = 0
    try:
        async with asyncio.timeout(invocation.options["timeout"]):
            while count is None or received < count:
                message = await layer.receive(channel)
                received += 1
                line = {"group": group, "position": position_of(message), "message": message}
                invocation.print_json(line if invocation.is_json else message)
    except TimeoutError:
        if count is not None:
            raise CommandError(
                f"{received} of {count} messages came within {invocation.options['timeout']:g} s."
            ) from None


async def _flush(invocation: Invocation) -> None:
    layer = invocation.layer()
    if invocation.options["interactive"]:
        question = f"Drop all messages and memberships at {', '.join(layer.brokers)}? Type yes: "
        try:
            answer = input(question)  # noqa: ASYNC250 - nothing else runs in this event loop
        except EOFError:
            answer = ""
        if answer != "yes":
            raise CommandError("Nothing was dropped.")
    await layer.flush()
    _confirm(invocation, {"brokers": layer.brokers}, "All messages and memberships were dropped.")
