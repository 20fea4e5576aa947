"""What `AnyioChannelLayer` offers tests: `captured`, `outage`, and a prefix of its own for each test run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..hub.session import Interruption
from .names import TEST_RUN
from .process.background_loop import background
from .settings import Settings
from .sync_methods import SynchronousMethods

if TYPE_CHECKING:
    from .sending.recording import Recording, Sent


class TestingMethods(SynchronousMethods):
    """The methods of `AnyioChannelLayer` for tests."""

    _recording: Recording | None = None
    _flushed_after = 0
    """How many connections had been opened when the layer was flushed last."""

    @contextmanager
    def captured(self) -> Iterator[list[Sent]]:
        """Append to a list what this process sends by this layer during the block: ``("group", name, message)``.

        For single channels it is ``("channel", name, message)``. All is sent as it is without the block. Listed is what
        the broker has accepted, by any method, thread and event loop; and what `in_transaction` sends, as soon as it is
        a part of the transaction and until that is rolled back. So tests within a transaction that never commits, such
        as Django's ``TestCase``, see what a commit would send.
        """
        from .sending.recording import Recording

        recording = self._recording
        if recording is None:
            recording = self._recording = Recording()
            self._observers = (recording.observe, *self._observers)
        sent: list[Sent] = []
        recording.lists.append(sent)
        try:
            yield sent
        finally:
            recording.lists[:] = [each for each in recording.lists if each is not sent]
            if not recording.lists:
                self._observers = tuple(each for each in self._observers if each != recording.observe)
                self._recording = None
                recording.stop()

    @contextmanager
    def outage(self, *, publish_timeout: float = 0.1) -> Iterator[None]:
        """Have the layer lose its connections, and get none during the block, in all event loops of this process.

        Its calls then wait ``publish_timeout`` seconds instead of CONFIG's, and raise `ListenerClosed`. When the block
        ends, the layer connects again and does all that it does after a real outage. What `in_transaction` sends
        travels on Django's own connection, which stays.
        """
        with self._dispatcher.outage(Interruption("the test is in layer.outage()", publish_timeout)):
            yield

    def _read_settings(self, config: Mapping[str, Any]) -> Settings:
        run, prefix = os.environ.get(TEST_RUN), config.get("prefix", Settings.prefix)
        if run and isinstance(prefix, str):
            config = {**config, "prefix": f"{prefix}.test-{run}"}
        return super()._read_settings(config)

    def _begin_run(self, config: Mapping[str, Any]) -> None:
        """Take the prefix of another test run, in place: modules may hold the layer."""
        self._dispatcher.close_soon()
        vars(self).clear()
        type(self).__init__(self, **config)

    def _empty(self) -> None:
        """Flush if something may be left on the broker; a layer that was not used does not connect."""
        dispatcher = self._dispatcher
        opened = dispatcher.outages.opened
        may_hold_messages = dispatcher.publishes_blocking or self._in_transaction
        if opened > self._flushed_after or dispatcher.nodes or may_hold_messages:
            asyncio.run_coroutine_threadsafe(self.flush(), background.loop()).result()
            if asyncio._get_running_loop() is None:
                # They would carry it out when they run again, after the first calls of the next test.
                for loop, node in dispatcher.paused_nodes:
                    loop.run_until_complete(node.flush_own_channels())
            self._flushed_after = dispatcher.outages.opened
