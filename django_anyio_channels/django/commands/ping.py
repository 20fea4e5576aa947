"""``manage.py channels ping``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from ...core.exceptions import ChannelLayerError
from .running import Invocation, add_parser, positive_seconds, printable


def add_arguments(subcommands: Any) -> None:
    """Add the subcommand."""
    text = "Send a message through the broker of every layer and back; fails if one does not return it."
    parser = add_parser(subcommands, "ping", text, _ping)
    parser.add_argument(
        "--timeout", type=positive_seconds, default=5.0, metavar="SECONDS", help="for each layer (default: 5)"
    )


async def _ping(invocation: Invocation) -> None:
    results: dict[str, dict[str, Any]] = {}
    for alias, layer in invocation.layers().items():
        result: dict[str, Any] = {"brokers": layer.brokers, "seconds": None, "error": None}
        try:
            result["seconds"] = await layer.ping(timeout=invocation.options["timeout"])
            shown = f"{', '.join(layer.brokers)}: {result['seconds'] * 1000:.1f} ms"
        except ChannelLayerError as error:
            shown = result["error"] = printable(str(error))
        results[alias] = result
        if not invocation.is_json:
            invocation.print(f"{alias}: {shown}")
    if invocation.is_json:
        invocation.print_json(results)
    failed = [alias for alias, result in results.items() if result["error"] is not None]
    if failed:
        raise CommandError(f"No round trip through {', '.join(failed)}. `manage.py channels doctor` says more.")
