"""Child processes: each measurement runs in one of its own, and some scenarios start more."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from signal import SIGKILL
from typing import Any, TypeVar

T = TypeVar("T")

_FORK = multiprocessing.get_context("fork")


class ChildFailed(Exception):
    """A child process raised, died, or took too long; the message has its traceback."""


class Parent:
    """A child's way to talk to its parent while it runs."""

    def __init__(self, connection: Connection, beats: int) -> None:
        self._connection = connection
        self._beats = beats

    def tell(self, what: Any) -> None:
        """Send an object to who waits in `Child.answer`."""
        self._connection.send((True, what))

    def beat(self) -> None:
        """Count one up at the parent. Cheap enough for each message."""
        os.write(self._beats, b".")


class Child:
    """A forked process that runs ``main``; the last answer is what it returns.

    Fork before any event loop or thread is running. One that ``leads`` takes the processes it started along when it
    is killed.
    """

    def __init__(self, main: Callable[[Parent], Any], *, leads: bool = False) -> None:
        self._leads = leads
        self._connection, theirs = _FORK.Pipe()
        self._beats, their_beats = os.pipe()
        self._process = _FORK.Process(target=_run, args=(main, Parent(theirs, their_beats), theirs, leads))
        self._process.start()
        theirs.close()
        os.close(their_beats)

    def answer(self, seconds: float) -> Any:
        """What the child tells next, or returns. Raises `ChildFailed` if it raises, dies or takes longer than that."""
        try:
            if not self._connection.poll(seconds):
                raise ChildFailed(f"no answer for {seconds:g} s")
            good, answer = self._connection.recv()
        except EOFError:
            raise ChildFailed("the process died without an answer") from None
        if not good:
            raise ChildFailed(answer)
        return answer

    def on_beat(self, callback: Callable[[int], object]) -> None:
        """Have the running event loop call back with the number of new beats, until the child ends."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            beats = len(os.read(self._beats, 65536))
            if beats:
                callback(beats)
            else:
                loop.remove_reader(self._beats)

        loop.add_reader(self._beats, read)

    def close(self) -> None:
        """Wait a moment for the process to end, else kill it."""
        self._process.join(1.0)
        if self._process.is_alive():
            assert self._process.pid is not None
            (os.killpg if self._leads else os.kill)(self._process.pid, SIGKILL)
            self._process.join()
        self._connection.close()
        os.close(self._beats)


def first_answer(children: Sequence[Child], seconds: float) -> Any:
    """`Child.answer` of the child that answers first."""
    answered = wait([child._connection for child in children], seconds)
    for child in children:
        if child._connection in answered:
            return child.answer(0)
    raise ChildFailed(f"no answer for {seconds:g} s")


def in_child(call: Callable[[], T], seconds: float) -> T:
    """What ``call`` returns in a fresh process. Raises `ChildFailed`."""
    child = Child(lambda parent: call(), leads=True)
    try:
        answer: T = child.answer(seconds)
        return answer
    finally:
        child.close()


def _run(main: Callable[[Parent], Any], parent: Parent, connection: Connection, leads: bool) -> None:
    if leads:
        os.setpgid(0, 0)
    try:
        answer = (True, main(parent))
    except BaseException:
        answer = (False, traceback.format_exc())
    connection.send(answer)
