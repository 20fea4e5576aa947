"""`django.process.background_loop`: the event loop for threads, and where it cannot run."""

from __future__ import annotations

import _thread
import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from django_anyio_channels import ChannelClosed, ListenerClosed, NotSupported
from django_anyio_channels.django.process import background_loop
from django_anyio_channels.django.process.background_loop import BackgroundLoop
from tests.support.brokers import redis
from tests.support.paths import ROOT

TIME_LIMIT = 30.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    made = redis.plain("valkey")
    with redis.running(made):
        yield made.url


def run(program: str, *arguments: str) -> str:
    """Run a program that ends well, and return what it says."""
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def test_the_background_loop_is_one_for_all_threads_and_can_be_reset() -> None:
    background = BackgroundLoop()
    background.stop()
    assert background.loop_if_running is None
    loops: list[object] = []
    threads = [threading.Thread(target=lambda: loops.append(background.loop())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIME_LIMIT)
    assert len(set(loops)) == 1
    background.stop()
    background.reset()
    assert background.loop() not in loops
    background.stop()


def test_a_loop_that_cannot_start_is_an_error_and_the_next_call_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    background = BackgroundLoop()

    def no_threads(function: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    def in_this_thread(function: Callable[[], None]) -> None:
        function()

    async def main() -> None:
        for start, reason in ((no_threads, "can't start new thread"), (in_this_thread, "its thread runs another")):
            monkeypatch.setattr(background_loop, "_start_thread", start)
            for _ in range(2):
                with pytest.raises(ListenerClosed, match=f"Cannot start the background event loop .*{reason}"):
                    background.loop()

    asyncio.run(main())
    monkeypatch.undo()
    assert background.loop().is_running()
    background.stop()


def test_a_loop_that_breaks_down_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    background = BackgroundLoop()
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def exit_here() -> None:
        raise KeyboardInterrupt

    broken = background.loop()
    broken.call_soon_threadsafe(exit_here)
    background._ended.result(TIME_LIMIT)
    assert background.loop() is not broken
    assert background.loop().is_running()
    background.stop()
    assert len(reported) == 1


def test_a_loop_that_ends_while_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    background = BackgroundLoop()
    loop = background.loop()
    background.stop()
    background.loop_if_running = loop  # as `stop` may have read it
    background.stop()
    background.stop_for_good()
    background.loop_if_running = None
    with pytest.raises(ChannelClosed, match="register yours after"):
        background.loop()


def test_a_loop_that_ends_after_a_reset_leaves_the_next_one_alone() -> None:
    background = BackgroundLoop()
    first, stop, ended = background.loop(), background._stop, background._ended
    background.reset()
    second = background.loop()
    first.call_soon_threadsafe(stop.set)
    ended.result(TIME_LIMIT)
    assert background.loop() is second
    background.stop()


def test_green_threads_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that really have them are tested below; they are not measured."""
    background = BackgroundLoop()
    patched: Callable[[str], bool] = lambda module: True  # noqa: E731
    monkeypatch.setitem(sys.modules, "eventlet.patcher", SimpleNamespace(is_monkey_patched=patched))
    with pytest.raises(NotSupported, match="instead of eventlet"):
        background.loop()
    monkeypatch.delitem(sys.modules, "eventlet.patcher")
    gevent = SimpleNamespace(is_module_patched=patched, get_original=lambda *names: _thread.start_new_thread)
    monkeypatch.setitem(sys.modules, "gevent.monkey", gevent)
    assert background.loop().is_running()
    background.stop()


def test_without_file_descriptors_the_caller_gets_the_error(url: str) -> None:
    run(  # asyncio itself complains about the event loop that it could not make
        """
        import os, resource, sys
        from django_anyio_channels import AnyioChannelLayer, ListenerClosed

        layer = AnyioChannelLayer(url=sys.argv[1])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        for _ in range(2):
            try:
                layer.group_send_sync("g", {"type": "x"})
            except ListenerClosed as error:
                assert "Too many open files" in str(error), error
            else:
                raise AssertionError("it was sent")
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        layer.group_send_sync("g", {"type": "x"})
        """,
        url,
    )


def test_under_gevent_the_loop_has_a_thread_of_its_own_and_the_orm_works(url: str) -> None:
    said = run(
        """
        from gevent import monkey
        monkey.patch_all()

        import sys, tempfile
        import gevent
        from asgiref.sync import async_to_sync
        from django.conf import settings
        folder = tempfile.TemporaryDirectory()  # Django never closes a database in memory
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder.name}/database"}
        settings.configure(DATABASES={"default": database})
        import django
        django.setup()
        from django.db import connection
        from django_anyio_channels import AnyioChannelLayer

        layer = AnyioChannelLayer(url=sys.argv[1])

        def work(number):
            name = f"green.{number}"
            for n in range(10):
                layer.send_sync(name, {"type": "x", "n": n})
                connection.cursor().execute("SELECT 1")
            connection.close()

        workers = [gevent.spawn(work, number) for number in range(10)]
        gevent.joinall(workers, timeout=30, raise_error=True)
        assert all(worker.successful() for worker in workers)
        receive = async_to_sync(layer.receive)
        for number in range(10):
            assert [receive(f"green.{number}")["n"] for _ in range(10)] == list(range(10))
        connection.cursor().execute("SELECT 1")
        connection.close()
        folder.cleanup()
        """,
        url,
    )
    assert said == ""


def test_under_eventlet_sync_code_is_refused_and_the_orm_works(url: str) -> None:
    said = run(
        """
        import sys, warnings
        with warnings.catch_warnings(action="ignore"):  # it says that it is deprecated
            import eventlet
        eventlet.monkey_patch()

        from django.conf import settings
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
        import django
        django.setup()
        from django.db import connection
        from django_anyio_channels import AnyioChannelLayer, NotSupported

        layer = AnyioChannelLayer(url=sys.argv[1])
        for _ in range(2):
            try:
                layer.group_send_sync("g", {"type": "x"})
            except NotSupported as error:
                assert "instead of eventlet" in str(error)
            else:
                raise AssertionError("it was sent")
            connection.cursor().execute("SELECT 1")
        """,
        url,
    )
    assert said == ""


def test_an_atexit_handler_that_comes_after_ours_is_told_so(url: str) -> None:
    said = run(
        """
        import atexit, os, sys

        @atexit.register
        def say_goodbye():
            try:
                layer.group_send_sync("g", {"type": "x"})
            except ChannelClosed as error:
                if "register yours after" in str(error):
                    return
            os._exit(1)

        from django_anyio_channels import AnyioChannelLayer, ChannelClosed
        layer = AnyioChannelLayer(url=sys.argv[1])
        layer.group_send_sync("g", {"type": "x"})
        """,
        url,
    )
    assert said == ""
