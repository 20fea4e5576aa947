"""``manage.py channels dead``: jobs of the channels under ``acknowledged`` that were delivered too often."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from ...core.events import Event
from ..consumers.jobs import dead_letter_group
from ..layer import AnyioChannelLayer
from .running import Invocation, add_parser

Letter = Event[dict[str, Any]]


def add_arguments(subcommands: Any) -> None:
    """Add the subcommand."""
    text = "Show dead letters, send them to their channel again (retry), or remove them (drop)."
    parser = subcommands.add_parser("dead", help=text, description=text)
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    parser = add_parser(actions, "show", "Show dead letters with their positions.", _show)
    parser.add_argument("--channel", help="only those of this channel")
    for action, text, work in (
        ("retry", "Send dead letters to their channel again.", _retry),
        ("drop", "Remove dead letters.", _drop),
    ):
        parser = add_parser(actions, action, text, work)
        parser.add_argument("channel")
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--position", action="append", help="the one at this position; may be given several times")
        which.add_argument("--all", action="store_true", help="all of the channel")


async def _show(invocation: Invocation) -> None:
    layer, channel = invocation.layer(), invocation.options["channel"]
    counts = await layer.dead_letters()
    channels = list(counts) if channel is None else [channel]
    letters = [(each, letter) for each in channels for letter in await layer.group_history(dead_letter_group(each))]
    for each, letter in letters:
        if invocation.is_json:
            invocation.print_json({"channel": each, "position": letter.position, "message": letter.message})
        else:
            invocation.print(f"{each}  {letter.position}")
            invocation.print_json(letter.message)
    if not letters and not invocation.is_json:
        invocation.print("No dead letters.")


async def _retry(invocation: Invocation) -> None:
    layer, channel = invocation.layer(), invocation.options["channel"]
    letters = await _select(invocation, layer, channel)
    for letter in letters:
        # First, so that none is lost: if this process dies in between, the job is done twice.
        await layer.send(channel, letter.message)
        await layer.remove_dead_letters(channel, [str(letter.position)])
    _confirm(invocation, len(letters), f"sent to {channel} again")


async def _drop(invocation: Invocation) -> None:
    layer, channel = invocation.layer(), invocation.options["channel"]
    letters = await _select(invocation, layer, channel)
    await layer.remove_dead_letters(channel, [str(letter.position) for letter in letters])
    _confirm(invocation, len(letters), "dropped")


def _confirm(invocation: Invocation, count: int, done: str) -> None:
    if invocation.is_json:
        invocation.print_json({"channel": invocation.options["channel"], "count": count})
    else:
        invocation.print(f"{count} dead letters were {done}.")


async def _select(invocation: Invocation, layer: AnyioChannelLayer, channel: str) -> list[Letter]:
    await layer.dead_letters()  # raises for a broker that has none
    letters = await layer.group_history(dead_letter_group(channel))
    if invocation.options["all"]:
        return letters
    positions = invocation.options["position"]
    unknown = set(positions) - {letter.position for letter in letters}
    if unknown:
        raise CommandError(f"{channel} has no dead letter at {', '.join(sorted(unknown))}. See `channels dead show`.")
    return [letter for letter in letters if letter.position in positions]
