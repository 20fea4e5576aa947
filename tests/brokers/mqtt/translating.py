"""A broker that translates dots in topics into slashes, as RabbitMQ does: a proxy in front of mosquitto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PUBLISH, SUBSCRIBE = 0x30, 0x80


async def _read_packet(reader: asyncio.StreamReader) -> tuple[bytes, bytearray]:
    """The fixed header of the next packet, and its body."""
    head, length, shift = bytearray(await reader.readexactly(1)), 0, 0
    while True:
        head += await reader.readexactly(1)
        length |= (head[-1] & 0x7F) << shift
        shift += 7
        if head[-1] < 128:
            return bytes(head), bytearray(await reader.readexactly(length))


def _translate(kind: int, body: bytearray) -> None:
    """Translate the topic of a PUBLISH, or the one filter of a SUBSCRIBE with few properties."""
    start = 0 if kind == PUBLISH else 3 + body[2]
    end = start + 2 + int.from_bytes(body[start : start + 2], "big")
    body[start + 2 : end] = body[start + 2 : end].replace(b".", b"/")


@asynccontextmanager
async def translating(port: int) -> AsyncIterator[str]:
    """The URL of the proxy."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", port)

        async def answer() -> None:
            while data := await from_broker.read(65536):
                writer.write(data)
            writer.close()

        answering = asyncio.ensure_future(answer())
        try:
            while True:
                head, body = await _read_packet(reader)
                if head[0] & 0xF0 in (PUBLISH, SUBSCRIBE):
                    _translate(head[0] & 0xF0, body)
                to_broker.write(head + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            to_broker.close()
        await answering

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
