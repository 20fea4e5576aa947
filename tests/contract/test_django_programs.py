"""Whole programs end with code 0 and say nothing, whether they close the layer or not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.programs import QUIET_ASYNCIO

from .processes import Processes

BEGINNING = """
import asyncio, os, sys, threading
from asgiref.sync import async_to_sync
from django_anyio_channels import AnyioChannelLayer

layer = AnyioChannelLayer({arguments})

async def converse():
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {{"type": "x"}})
    assert await layer.receive(channel) == {{"type": "x"}}
    normal = f"normal-{{threading.get_native_id()}}"
    await layer.send(normal, {{"type": "y"}})
    assert await layer.receive(normal) == {{"type": "y"}}
    return channel

def publish():
    layer.group_send_sync("g", {{"type": "x"}})
    async_to_sync(layer.group_send)("g", {{"type": "x"}})
    layer.group_add_sync("g", "normal-member")
    layer.group_discard_sync("g", "normal-member")
"""

PROGRAMS = {
    "nothing at all": "",
    "asyncio.run": "asyncio.run(converse())",
    "asyncio.run twice": "asyncio.run(converse()); asyncio.run(converse())",
    "asyncio.run with close": """
        async def main():
            await converse()
            await layer.close()

        asyncio.run(main())
        """,
    "cancelled while receiving": """
        async def main():
            channel = await converse()
            for name in (channel, "normal", channel[: channel.index("!") + 1]):
                reading = asyncio.ensure_future(layer.receive(name))
                await asyncio.sleep(0.01)
                reading.cancel()
                await asyncio.wait([reading])

        asyncio.run(main())
        """,
    "still receiving at the end": """
        async def main():
            channel = await converse()
            waiting = [asyncio.ensure_future(layer.receive(name)) for name in (channel, channel, "normal")]
            await asyncio.sleep(0.01)
            return waiting

        asyncio.run(main())
        """,
    "still receiving while it is closed": """
        async def main():
            channel = await converse()
            waiting = [asyncio.ensure_future(layer.receive(name)) for name in (channel, "normal")]
            await asyncio.sleep(0.01)
            await layer.close()
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

        asyncio.run(main())
        """,
    "an error in the program": """
        async def main():
            await converse()
            raise KeyboardInterrupt

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            pass
        """,
    "sync code only": "publish()",
    "sync code in threads": """
        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
    "loops in threads": """
        threads = [threading.Thread(target=lambda: asyncio.run(converse())) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
    "threads beside a loop": """
        async def main():
            await converse()
            await asyncio.gather(*[asyncio.to_thread(publish) for _ in range(8)])

        asyncio.run(main())
        publish()
        """,
    "a daemon thread that still receives": """
        started = threading.Event()

        async def main():
            channel = await converse()
            started.set()
            while True:
                await layer.receive(channel)

        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        started.wait()
        publish()
        """,
    "async_to_sync for everything": """
        channel = async_to_sync(layer.new_channel)()
        async_to_sync(layer.group_add)("g", channel)
        publish()
        for _ in range(2):
            assert async_to_sync(layer.receive)(channel) == {"type": "x"}
        async_to_sync(layer.flush)()
        """,
    "a loop made by hand and closed": """
        loop = asyncio.new_event_loop()
        channel = loop.run_until_complete(converse())
        loop.run_until_complete(layer.close())
        loop.close()
        """,
    "a loop made by hand and left": """
        loop = asyncio.new_event_loop()
        channel = loop.run_until_complete(converse())
        loop.run_until_complete(converse())
        import atexit
        atexit.register(loop.close)
        """,
    "a fork": """
        asyncio.run(converse())
        publish()
        child = os.fork()
        asyncio.run(converse())
        publish()
        if child:
            assert os.waitpid(child, 0)[1] == 0
        """,
    "sys.exit in the middle": """
        async def main():
            await converse()
            sys.exit(0)

        asyncio.run(main())
        """,
}


@pytest.mark.usefixtures("measured_programs")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_ends_quietly(program: str, tmp_path: Path) -> None:
    check_quiet(tmp_path / "program.py", BEGINNING.format(arguments="") + textwrap.dedent(PROGRAMS[program]))


EVERYTHING = """
def in_threads(function):
    threads = [threading.Thread(target=function) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def outlive_the_main_thread():
    threading.main_thread().join()
    layer.group_send_sync("g", {"type": "x"})  # asgiref's async_to_sync needs an executor
    asyncio.run(converse())

publish()
asyncio.run(converse())
in_threads(publish)
in_threads(lambda: asyncio.run(converse()))
child = os.fork()
asyncio.run(converse())
publish()
if child:
    assert os.waitpid(child, 0)[1] == 0
    threading.Thread(target=outlive_the_main_thread).start()
"""

EVENT_LOOPS = {
    "asyncio": "",
    "uvloop": "import asyncio, uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\n",
}


@pytest.mark.usefixtures("mortal_broker", "distinct_broker")
@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
def test_a_program_that_does_everything_on_a_server_ends_quietly(
    event_loop: str, plain_processes: Processes, tmp_path: Path
) -> None:
    """The host has a name: after the end of the main thread, Python's executors look none up."""
    url = plain_processes.config["url"].replace("127.0.0.1", "localhost")
    if url.startswith("postgresql:"):
        # Not even TLS that is only offered: a lock of OpenSSL that a thread holds while another one forks is held for
        # ever in the child.
        url += "?sslmode=disable"
    config = {**plain_processes.config, "url": url}
    arguments = ", ".join(f"{key}={value!r}" for key, value in config.items())
    check_quiet(tmp_path / "program.py", EVENT_LOOPS[event_loop] + BEGINNING.format(arguments=arguments) + EVERYTHING)


def check_quiet(script: Path, program: str) -> None:
    """Run a program that shall say nothing, not even what Python says in its development mode."""
    script.write_text(QUIET_ASYNCIO + program)
    options = ["-X", "dev", "-W", "error"]
    if sys.version_info >= (3, 12):
        # Python itself warns of a fork in a process with threads.
        options += ["-W", "ignore:This process:DeprecationWarning"]
    ended = subprocess.run([sys.executable, *options, script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "")
