"""Sends to the client of a consumer that waits, from outside of its task.

A send that has room ends at once, and costs no task a turn. One that has to wait, or fails, is carried on in the
consumer's own task, where a handler's send would have waited or failed. All of it runs in the name and in the context
of that task.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import CoroutineType
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]


class _ContextOfTask(asyncio.Future[contextvars.Context]):
    """Ends at once, with the context of the task that awaits it. Python 3.12 has `asyncio.Task.get_context`."""

    def add_done_callback(self, callback: Any, /, *, context: contextvars.Context | None = None) -> None:
        super().add_done_callback(callback, context=context)
        self.set_result(contextvars.copy_context() if context is None else context)


class DirectSends:
    """The sends of a consumer's task, while that waits."""

    __slots__ = ("_context", "_loop", "_send", "_task")

    def __init__(self, send: Send, context: contextvars.Context) -> None:
        self._send = send
        self._context = context
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def of_this_task(cls, send: Send) -> DirectSends:
        """Return those of the current task."""
        return cls(send, await _ContextOfTask())

    def send(self, messages: list[dict[str, Any]]) -> Rest | None:
        """Send, in a callback of the event loop. Return what the consumer must await, if anything.

        Messages that could not be sent without a wait, or that came meanwhile, remain in the list.
        """
        # As `asyncio-extending` says for whoever runs a task's code: a time limit, say, asks for the task.
        asyncio.tasks._enter_task(self._loop, self._task)  # type: ignore[arg-type]
        try:
            return self._context.run(self._begin, messages)
        finally:
            asyncio.tasks._leave_task(self._loop, self._task)  # type: ignore[arg-type]

    def _begin(self, messages: list[dict[str, Any]]) -> Rest | None:
        for _ in range(len(messages)):
            try:
                sending = self._send(messages.pop(0))
                steps = sending if isinstance(sending, CoroutineType) else _await(sending)
                waits_for = steps.send(None)
            except StopIteration:
                continue
            except (Exception, asyncio.CancelledError) as error:
                return Rest(None, None, error)
            return Rest(steps, waits_for)
        return None


class Rest:
    """The rest of a coroutine that has run up to its first wait, or its error."""

    __slots__ = ("_error", "_steps", "_waits_for")

    def __init__(
        self, steps: Coroutine[Any, Any, None] | None, waits_for: Any, error: BaseException | None = None
    ) -> None:
        self._steps = steps
        self._waits_for = waits_for
        self._error = error

    def interrupt(self, error: BaseException) -> None:
        """Have what waits get this error, when it is awaited: the task was cancelled before it came to that."""
        # As with the cancellation of a task: what it awaits is cancelled, if that can be, and ends it then.
        is_cancelled = isinstance(error, asyncio.CancelledError) and self._waits_for is not None
        if not (is_cancelled and self._waits_for.cancel()):
            self._error = error

    def __await__(self) -> Generator[Any, Any, None]:
        steps, waits_for, error = self._steps, self._waits_for, self._error
        if steps is None:
            assert error is not None
            raise error
        while True:
            result = None
            if error is None:
                try:
                    result = yield waits_for
                except BaseException as thrown:
                    error = thrown
            step = partial(steps.send, result) if error is None else partial(steps.throw, error)
            error = None
            try:
                waits_for = step()
            except StopIteration:
                return


async def _await(sending: Awaitable[None]) -> None:
    await sending
