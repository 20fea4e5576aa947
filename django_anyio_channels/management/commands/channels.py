"""``manage.py channels``: looks after the layers of ``CHANNEL_LAYERS``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ...django.commands import dead, doctor, info, messages, ping, top
from ...django.commands.running import Invocation, run

FAMILIES = (ping, info, messages, top, dead, doctor)


class Command(BaseCommand):
    """Each of `FAMILIES` adds its subcommands with the function that does the work."""

    help = (
        "Look after the channel layers: reach them, see what they hold, send and receive, and find out what to change."
    )
    requires_system_checks = ()  # an error of theirs may be what is looked for

    def add_arguments(self, parser: CommandParser) -> None:
        subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="subcommand")
        for family in FAMILIES:
            family.add_arguments(subcommands)

    def handle(self, **options: Any) -> None:
        run(options["work"], Invocation(options, self.stdout, self.stderr))
