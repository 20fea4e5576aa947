"""A TCP link between browsers and their server, which tests cut and silence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from anyio.from_thread import BlockingPortal

from tests.support.brokers.server import free_port


class Link:
    """Carries all connections to ``port`` on to the server's; `link_to` makes it. Its methods are for other threads."""

    def __init__(self, portal: BlockingPortal, server_port: int) -> None:
        self.port = free_port()
        self._portal = portal
        self._server_port = server_port
        self._listening: asyncio.Server | None = None
        self._silent = False
        self._ends: set[_End] = set()
        """Both ends of each connection."""
        self._waiting: list[_End] = []
        """Connections that were begun in silence."""
        self._connecting: set[asyncio.Task[None]] = set()

    def restore(self) -> None:
        """Carry new connections. Those that were cut, or open when it went silent, stay dead."""
        self._portal.call(self._restore)

    def cut(self) -> None:
        """Break all connections, and refuse others."""
        self._portal.call(self._cut)

    def silence(self) -> None:
        """Carry nothing any more, and close nothing: each side takes the other one for idle."""
        self._portal.call(self._silence)

    async def _restore(self) -> None:
        self._silent = False
        if self._listening is None:
            loop = asyncio.get_running_loop()
            self._listening = await loop.create_server(lambda: _End(self), "127.0.0.1", self.port, backlog=1000)
        waiting, self._waiting = self._waiting, []
        for end in waiting:
            self._connect(end)

    def _cut(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for end in list(self._ends):
            end.transport.abort()

    def _silence(self) -> None:
        self._silent = True
        for end in self._ends:
            end.transport.pause_reading()
            end.is_dead = True

    def add(self, end: _End) -> None:
        """An end is open."""
        self._ends.add(end)
        if end.other is None:  # a client's
            end.transport.pause_reading()
            if self._silent:
                self._waiting.append(end)
            else:
                self._connect(end)

    def discard(self, end: _End) -> None:
        """An end has closed."""
        self._ends.discard(end)

    def _connect(self, end: _End) -> None:
        task = asyncio.get_running_loop().create_task(self._connect_to_server(end))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_to_server(self, end: _End) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _End(self, end), "127.0.0.1", self._server_port)
        except OSError:  # the server is away
            end.transport.abort()


class _End(asyncio.Protocol):
    """One end of a connection through the link; what it reads the other one writes."""

    transport: asyncio.Transport

    def __init__(self, link: Link, other: _End | None = None) -> None:
        self.other = other
        self.is_dead = False
        """Whether what happens to it does not reach the other end."""
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._link.add(self)
        if self.other is not None:
            self.other.other = self
            if self.other.transport.is_closing():
                transport.abort()
            elif not self.other.is_dead:
                self.other.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._link.discard(self)
        if self.other is not None and not self.is_dead:
            self.other.transport.close()


@contextmanager
def link_to(portal: BlockingPortal, port: int) -> Iterator[Link]:
    """A link to the server on this port."""
    link = Link(portal, port)
    link.restore()
    try:
        yield link
    finally:
        link.cut()
