"""What the subcommands share: layers, output, errors, the log."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from datetime import date
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import OutputWrapper
from django.test import override_settings

from django_anyio_channels.django.commands.running import Invocation, printable, table
from django_anyio_channels.management.commands.channels import Command
from tests.support.brokers.server import free_port

from .conftest import OURS, call, project, refused

FOREIGN = {
    "foreign": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "missing": {"BACKEND": "nowhere.Layer"},
    "empty": {},
    "function": {"BACKEND": "channels.layers.get_channel_layer"},
}


def test_layers_of_others_are_left_out() -> None:
    with override_settings(CHANNEL_LAYERS={**FOREIGN, "ours": {"BACKEND": OURS}}):
        assert call("ping").startswith("ours: memory://: ")
    with override_settings(CHANNEL_LAYERS=FOREIGN):
        assert "has no layer of django_anyio_channels" in refused("ping")[0]
        assert "is a InMemoryChannelLayer" in refused("ping", "--alias", "foreign")[0]


def test_a_subcommand_is_needed() -> None:
    assert "the following arguments are required: subcommand" in refused()[0]


def test_what_is_printed_of_others_controls_no_terminal() -> None:
    assert printable("a\x1b[2J\u202eb\nc") == "a?[2J?b\nc"
    assert len(printable("x" * 20_000)) == 10_000


def test_what_json_has_no_type_for_is_printed_as_text() -> None:
    stdout = StringIO()
    invocation = Invocation({"json": True}, OutputWrapper(stdout), OutputWrapper(stdout))
    invocation.print_json({"bytes": b"\xff", "date": date(2026, 1, 2)})
    assert stdout.getvalue() == '{"bytes": "/w==", "date": "2026-01-02"}\n'


def test_columns_are_aligned() -> None:
    assert table(("A", "LONG"), [("abc", 1), ("b", "")]) == "A    LONG\nabc  1\nb"


def test_an_interrupt_ends_it_without_an_error(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(work: Any) -> None:
        work.close()
        raise KeyboardInterrupt

    with project(default=config):
        monkeypatch.setattr(asyncio, "run", interrupt)
        assert call("listen", "room") == "\n"


@pytest.mark.parametrize("words", [("ping", "--timeout"), ("info", "--timeout"), ("listen", "a", "--timeout")])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_are_more_than_none(config: dict[str, Any], words: tuple[str, ...], value: str) -> None:
    with project(default=config):
        reason, _ = refused(*words[:-1], f"{words[-1]}={value}")
    assert "argument --timeout: " in reason


@pytest.mark.parametrize("words", [("listen", "a"), ("top",)])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_count_is_one_at_least(config: dict[str, Any], words: tuple[str, ...], value: str) -> None:
    with project(default=config):
        assert "argument --count: " in refused(*words, f"--count={value}")[0]


def test_it_ends_when_nobody_reads_what_it_prints(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def write(text: str) -> int:
        raise BrokenPipeError

    replaced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "dup2", lambda *numbers: replaced.append(numbers))
    stdout = StringIO()
    monkeypatch.setattr(stdout, "write", write)
    with project(default=config), pytest.raises(SystemExit) as caught:
        call_command(Command(), "info", stdout=stdout, stderr=StringIO())
    assert caught.value.code == 1
    [(null, out)] = replaced
    os.close(null)
    assert out == sys.stdout.fileno()


def test_the_log_is_printed_once(caplog: pytest.LogCaptureFixture) -> None:
    url, stderr = f"redis://127.0.0.1:{free_port()}", StringIO()
    logger = logging.getLogger("django_anyio_channels")
    with project(default={"url": url, "publish_timeout": 0.3}), pytest.raises(Exception, match="No connection"):
        call_command(Command(), "group-send", "room", '{"type": "x"}', stdout=StringIO(), stderr=stderr)
    # Once by the log, while the attempts were repeated.
    assert stderr.getvalue().count("Connect call failed") == 1
    assert "connecting again" not in stderr.getvalue()
    assert not caplog.records
    assert logger.propagate
    assert not logger.handlers
