"""``channels top``: rates, lag and losses of all processes."""

from __future__ import annotations

import builtins
import json
import os
import pty
import subprocess
import sys
import threading
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.management.commands.channels import Command
from tests.asgi.serving import environment
from tests.support.paths import ROOT

from .conftest import Site, call, in_memory, project, refused, running_site
from .test_info import Vague

FEW = ("--count", "2", "--interval", "0.1")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_rates_and_losses_of_a_busy_node() -> None:
    config = in_memory(Vague, capacity=3)  # which takes no messages from other threads, so that they are counted
    Vague.publish_blocking = None  # type: ignore[assignment]
    stop = threading.Event()

    async def send(layer: AnyioChannelLayer) -> None:
        while not stop.is_set():
            await layer.group_send("room", {"type": "x"})

    try:
        with project(default=config), running_site(**config) as site:
            site.new_member("room")
            sender = threading.Thread(target=lambda: site.run(send))
            sender.start()
            pages = [json.loads(line) for line in call("top", "--json", *FEW).splitlines()]
            stop.set()
            sender.join()
            assert len(pages) == 2
            [row] = pages[-1]["nodes"]
            assert row["published_per_second"] > 0
            assert row["received_per_second"] > 0
            assert row["dropped_per_second"] > 0
            assert row["lag_seconds"] > 0
            assert row["unread_channels"] == 1
            assert pages[-1]["notes"][0].startswith("vague:// does not say how many nodes")
    finally:
        del Vague.publish_blocking


def test_lines_without_a_terminal(site: Site) -> None:
    first, second, *_ = call("top", *FEW).splitlines()
    assert first.split()[:4] == ["PROCESS", "NODE", "PUBLISHED/s", "RECEIVED/s"]
    assert second.split()[1:4] == [site.layer._dispatcher.nodes[0].id, "0.0", "0.0"]


def test_a_node_that_is_new_has_no_rates_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    from django_anyio_channels.django.commands import top

    config = in_memory()
    sample = top._sample
    sites: list[AnyioChannelLayer] = []
    reports: list[Any] = []

    async def with_another_node(layer: AnyioChannelLayer, interval: float) -> Any:
        if reports and not sites:
            other = AnyioChannelLayer(**config)
            await other.new_channel()
            sites.append(other)
        reports.append(await sample(layer, interval))
        return reports[-1]

    monkeypatch.setattr(top, "_sample", with_another_node)
    with project(default=config):
        assert call("top", "--count", "1", "--interval", "0.01").splitlines()[1].split()[2:4] == ["-", "-"]


def test_no_other_node_and_no_interval(config: dict[str, Any]) -> None:
    with project(default=config):
        assert call("top", "--count", "1", "--interval", "0.01").startswith("No other node.\nmemory:// carries")
        assert "argument --interval: 0 is not more than 0 and at most" in refused("top", "--interval", "0")[0]


def test_without_rich_the_extra_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without_rich(name: str, *arguments: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return importing(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    stdout, stderr = Terminal(), StringIO()
    call_command(Command(), "top", *FEW, stdout=stdout, stderr=stderr)
    assert "pip install django-anyio-channels[cli]" in stderr.getvalue()
    assert stdout.getvalue().startswith("PROCESS")
    stderr = StringIO()
    call_command(Command(), "top", "--plain", *FEW, stdout=Terminal(), stderr=stderr)
    assert stderr.getvalue() == ""


def test_on_a_terminal_the_page_stays_in_place(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    call_command(Command(), "top", *FEW, stdout=Terminal(), stderr=StringIO())
    assert site.layer._dispatcher.nodes[0].id in capsys.readouterr().out


def test_a_real_terminal() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "django", "channels", "top", "--count", "2", "--interval", "0.05"],
        env={**os.environ, **environment("tests.asgi.site", "memory://"), "TERM": "xterm", "COLUMNS": "200"},
        cwd=ROOT,
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    printed = os.read(ours, 100_000).decode()
    os.close(ours)
    assert printed.count("No other node.") >= 2
    assert "\x1b[" in printed
