"""``manage.py channels`` as a process, with other processes as nodes, on real brokers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from django_anyio_channels.django.process.background_loop import background
from tests.asgi.serving import environment
from tests.support.brokers import mosquitto, postgres, redis
from tests.support.brokers.server import running
from tests.support.paths import ROOT

from .conftest import call, project, refused

PROJECT = "tests.asgi.site"
MESSAGE = '{"type": "chat.message", "text": "hi"}'


@contextmanager
def broker(kind: str) -> Iterator[str]:
    """The URL of a running broker."""
    if kind == "cluster":
        with redis.cluster() as cluster:
            yield cluster.url
        return
    makers: dict[str, Callable[[], Any]] = {
        "redis": lambda: redis.plain("valkey"),
        "streams": lambda: redis.plain("redis"),
        "postgres": postgres.plain,
        "mqtt": mosquitto.mosquitto,
    }
    made = makers[kind]()
    with running(made.server):
        yield redis.with_streams(made.url) if kind == "streams" else made.url


class Manage:
    """Starts ``manage.py channels`` in the project."""

    def __init__(self, url: str) -> None:
        self._environment = {**os.environ, **environment(PROJECT, url), "PYTHONDEVMODE": "", "PYTHONASYNCIODEBUG": ""}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "django", "channels", *words],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def listening(self, count: int) -> Iterator[list[subprocess.Popen[str]]]:
        """So many processes that listen to the group ``room``."""
        with ExitStack() as stack:
            processes = [stack.enter_context(self.start("listen", "room")) for _ in range(count)]
            for process in processes:
                stack.callback(process.terminate)
            for process in processes:
                assert process.stderr is not None
                assert process.stderr.readline() == "Listening to the group room.\n"
            yield processes


@pytest.mark.parametrize("kind", ["redis", "streams", "cluster", "postgres", "mqtt"])
def test_other_processes_are_the_nodes(kind: str) -> None:
    count = 2 if kind == "redis" else 1
    with broker(kind) as url, project(default={"url": url}), Manage(url).listening(count) as processes:
        assert call("ping").endswith(" ms\n")
        call("group-send", "room", MESSAGE)
        for process in processes:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == json.loads(MESSAGE)
        call("send", "jobs", MESSAGE)
        background.stop()  # the node that has sent these
        background.reset()
        found = json.loads(call("info", "--json"))["default"]
        assert found["groups"] == {"room": {"members": count, "nodes": count}}
        pids = {node["process"].rpartition(":")[2] for node in found["nodes"]}
        assert pids == {str(process.pid) for process in processes}
        [jobs] = found["channels"]
        assert (jobs["channel"], jobs["waiting"]) == ("jobs", 1)
        assert 0 < jobs["oldest_seconds"] < 60
        [page] = map(json.loads, call("top", "--json", "--count", "1", "--interval", "0.2").splitlines())
        assert len(page["nodes"]) == count
        assert all(row["received_per_second"] >= 0 for row in page["nodes"])
        findings = json.loads(call("doctor", "--json"))["default"]
        assert not [each for each in findings if each["level"] == "error"]
        assert any(each["text"].startswith(f"All other nodes ({count}) have") for each in findings)
        call("flush", "--no-input")
        while json.loads(call("info", "--json"))["default"]["groups"]:  # over MQTT it returns sooner
            pass
        if kind == "streams":
            assert call("dead", "show") == "No dead letters.\n"
        else:
            reason = "keeps no history unless" if kind == "postgres" else "cannot list dead letters"
            assert reason in refused("dead", "show")[0]


def test_output_and_exit_codes_of_processes() -> None:
    with broker("redis") as url:
        manage = Manage(url)
        running = [
            manage.start("ping"),
            manage.start("group-send", "room", MESSAGE),
            manage.start("send", "jobs", "[]"),
            manage.start("sing"),
        ]
        ended = [(*process.communicate(timeout=60), process.returncode) for process in running]
        with manage.start("info") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()  # as `head` does
            assert (process.stderr.read(), process.wait(60)) == ("", 1)
    (stdout, stderr, status), *others, unknown = ended
    assert unknown[2] == 2
    assert "invalid choice: 'sing'" in unknown[1]
    assert (stdout.rpartition(": ")[0], stderr, status) == (f"default: {url}/0", "", 0)
    assert others == [
        ("Sent to the group room.\n", "", 0),
        ("", 'CommandError: The message must be a JSON object, such as {"type": "chat.message"}.\n', 1),
    ]
    stdout, stderr = manage.start("ping", "--timeout", "1").communicate(timeout=60)
    assert "could not be reached within 1 s" in stdout
    assert "Connect call failed" in stderr
    assert "CommandError: No round trip through default." in stderr
