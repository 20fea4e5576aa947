"""``manage.py channels dead``: jobs of the channels under ``acknowledged`` that were delivered too often."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from ...core.events import Event
from ..jobs import dead_letter_group
from ..layer import AnyioChannelLayer
from .running import Invocation, add_parser

Letter = Event[dict[str, Any]]


def add_arguments(subcommands: Any) -> None:
    """Add the subcommand."""
    text = "Show dead letters, send them to their channel again (retry), or remove them (drop)."
    parser = add_parser(subcommands, "dead", text, _dead)
    parser.add_argument("action", choices=["show", "retry", "drop"])
    parser.add_argument("channel", nargs="?", help="for show: all channels without it")
    parser.add_argument("position", nargs="*", help="those at these positions, which show prints")
    parser.add_argument("--all", action="store_true", help="for retry and drop: all of the channel")


async def _dead(invocation: Invocation) -> None:
    layer, action, channel = invocation.layer(), invocation.options["action"], invocation.options["channel"]
    if action == "show":
        channels = await layer.dead_letters()
        if channel is not None:
            channels = {channel: channels.get(channel, 0)}
        await _show(invocation, layer, list(channels))
        return
    if channel is None:
        raise CommandError(f"Name the channel whose dead letters to {action}.")
    if bool(invocation.options["position"]) == invocation.options["all"]:
        raise CommandError(f"Name the positions of the dead letters to {action}, or give --all.")
    letters = await _select(invocation, layer, channel)
    for letter in letters:
        if action == "retry":
            # First, so that none is lost: if this process dies in between, the job is done twice.
            await layer.send(channel, letter.message)
        await layer.remove_dead_letters(channel, [str(letter.position)])
    if invocation.is_json:
        invocation.print_json({"channel": channel, "action": action, "count": len(letters)})
    else:
        done = f"sent to {channel} again" if action == "retry" else "dropped"
        invocation.print(f"{len(letters)} dead letters were {done}.")


async def _show(invocation: Invocation, layer: AnyioChannelLayer, channels: list[str]) -> None:
    letters = [
        (channel, each) for channel in channels for each in await layer.group_history(dead_letter_group(channel))
    ]
    if not letters and not invocation.is_json:
        invocation.print("No dead letters.")
    for channel, letter in letters:
        if invocation.is_json:
            invocation.print_json({"channel": channel, "position": letter.position, "message": letter.message})
        else:
            invocation.print(f"{channel}  {letter.position}")
            invocation.print_json(letter.message)


async def _select(invocation: Invocation, layer: AnyioChannelLayer, channel: str) -> list[Letter]:
    await layer.dead_letters()  # raises for a broker that has none
    letters = await layer.group_history(dead_letter_group(channel))
    positions = invocation.options["position"]
    if invocation.options["all"]:
        return letters
    unknown = set(positions) - {letter.position for letter in letters}
    if unknown:
        raise CommandError(f"{channel} has no dead letter at {', '.join(sorted(unknown))}. See `channels dead show`.")
    return [letter for letter in letters if letter.position in positions]
