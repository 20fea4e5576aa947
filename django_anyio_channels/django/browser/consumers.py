"""The server's half of ``client.js``: consumers whose browsers join groups, and come back to where they were.

They are made by inheritance, as Channels' own consumers are; nothing else in this package is.
"""

from __future__ import annotations

import inspect
from typing import Any

from ...core.exceptions import MissingDriver

try:
    from asgiref.sync import async_to_sync
    from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
except ModuleNotFoundError as error:
    raise MissingDriver(
        "ResumableConsumer needs Django and Channels: pip install django-anyio-channels[django]"
    ) from error

from ..closing import close, close_sync
from ..presence.consumers import PresenceMixin
from ..resume import AsyncResumingMixin, ResumingMixin
from .conversation import Conversation, run
from .frames import content_of

Message = dict[str, Any]
Presence = str | tuple[str, dict[str, Any]] | None


class _Limits:
    """What a client may do; what exceeds it is refused with an error frame."""

    hello_timeout: float = 10
    """Seconds for the client's ``hello``; without it the WebSocket is closed (4408)."""
    max_groups: int = 32
    """Groups at a time."""
    max_frame_size: int = 16 * 1024
    """Characters of a frame of the client; a longer one closes the WebSocket (4400)."""
    joins_per_minute: int = 120
    """More close the WebSocket (4429)."""
    max_last: int = 100
    """How many messages of the past a client gets when it joins with ``last``."""
    max_members: int = 1000
    """A client that joins a group with more members does not get their list."""


class ResumableConsumer(_Limits, PresenceMixin, AsyncResumingMixin, AsyncWebsocketConsumer):
    """An asynchronous consumer that speaks the protocol of ``docs/reference/protocol.rst``.

    Its clients join and leave any number of groups that `may_join` allows, over one WebSocket. They get what is sent to
    the groups as messages of the type ``group.message``, and by `broadcast`. For messages of other types a subclass has
    handlers, which call `push`. On a layer with a history, a client that comes back gets what it missed, or learns that
    this is lost; without a history it learns that something may be.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def do(method: Any, *arguments: Any, **options: Any) -> Any:
            found = method(*arguments, **options)
            return await found if inspect.isawaitable(found) else found

        self._conversation = Conversation(self, do)
        await super().__call__(scope, self._conversation.limit(receive), send)

    async def authenticate(self, token: str | None) -> bool:
        """Override it to check the token that the client was given; by default any client may go on.

        Whom the session knows is in ``self.scope["user"]``, if there is ``AuthMiddlewareStack``.
        """
        return True

    async def may_join(self, group: str) -> bool:
        """Override it: whether the client may have all messages of a group. By default of none."""
        return False

    async def presence_of(self, group: str) -> Presence:
        """Override it for presence: as which member the client joins a group, alone or with a dict of metadata.

        All clients in the group get the names and metadata of all members.
        """
        return None

    async def received(self, message: Any, group: str | None) -> None:
        """Override it: the client has sent a message, to a group that it has joined or to none.

        ``message`` is what JSON can represent; nothing else is known of it. By default it is refused. If this raises a
        `ListenerClosed`, the WebSocket is closed so that the client comes back (4013).
        """
        await self.refuse("not_supported", "this server takes no messages", group)

    async def refuse(self, code: str, reason: str, group: str | None = None, message_id: str | None = None) -> None:
        """Send an error frame that answers a message of the client: which one, if the client gave it an id."""
        await self._conversation.error("message", code, reason, group, message_id)

    async def tell(self, content: Any) -> None:
        """Send ``content`` to this client alone, as a message that came through no group."""
        await self._conversation.tell(content)

    async def push(self, message: Message, content: Any) -> None:
        """Send ``content`` to the client in place of ``message``, which came through a group, with its position."""
        await self._conversation.push(message, content)

    async def leave_group(self, group: str, code: str = "forbidden") -> None:
        """Take the client out of a group; the code says why."""
        await self._conversation.leave(group, code)

    @property
    def joined_groups(self) -> list[str]:
        """The groups that the client is in."""
        return list(self._conversation.groups)

    async def group_message(self, message: Message) -> None:
        """Handle ``{"type": "group.message", "message": ...}``."""
        await self.push(message, content_of(message))

    websocket_broadcast = group_message

    async def group_missed(self, message: Message) -> None:
        """Have the client come back and ask for what is missing; without a history tell it that something may be."""
        if message.get("group") is None and not self._conversation.has_history:
            await self._conversation.missed()
        else:
            await super().group_missed(message)

    async def member_joined(self, event: Message) -> None:
        await self._conversation.presence(event)

    member_updated = member_joined
    member_left = member_joined

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self._conversation.receive(text_data)

    async def hello_missing(self, message: Message) -> None:
        await self._conversation.hello_missing()

    async def websocket_disconnect(self, message: Any) -> None:
        if not hasattr(self.channel_layer, "group_resume"):  # ours notices the end of a consumer
            for group in self.joined_groups:
                await self._discard(group)
        await super().websocket_disconnect(message)

    async def _discard(self, group: str) -> None:
        layer: Any = self.channel_layer
        await layer.group_discard(group, self.channel_name)

    async def _end(self, code: int) -> None:
        await close(self, code)


class SyncResumableConsumer(_Limits, PresenceMixin, ResumingMixin, WebsocketConsumer):
    """The same without coroutines: its methods are those of `ResumableConsumer`."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def do(method: Any, *arguments: Any, **options: Any) -> Any:
            found = method(*arguments, **options)
            if inspect.iscoroutine(found):  # which would count as true
                found.close()
                raise TypeError(f"{type(self).__name__}.{method.__name__} must not be a coroutine function")
            return found

        self._conversation = Conversation(self, do)
        await super().__call__(scope, self._conversation.limit(receive), send)

    def authenticate(self, token: str | None) -> bool:
        """`ResumableConsumer.authenticate`."""
        return True

    def may_join(self, group: str) -> bool:
        """`ResumableConsumer.may_join`."""
        return False

    def presence_of(self, group: str) -> Presence:
        """`ResumableConsumer.presence_of`."""
        return None

    def received(self, message: Any, group: str | None) -> None:
        """`ResumableConsumer.received`."""
        self.refuse("not_supported", "this server takes no messages", group)

    def refuse(self, code: str, reason: str, group: str | None = None, message_id: str | None = None) -> None:
        """`ResumableConsumer.refuse`."""
        run(self._conversation.error("message", code, reason, group, message_id))

    def tell(self, content: Any) -> None:
        """`ResumableConsumer.tell`."""
        run(self._conversation.tell(content))

    def push(self, message: Message, content: Any) -> None:
        """`ResumableConsumer.push`."""
        run(self._conversation.push(message, content))

    def leave_group(self, group: str, code: str = "forbidden") -> None:
        """`ResumableConsumer.leave_group`."""
        run(self._conversation.leave(group, code))

    @property
    def joined_groups(self) -> list[str]:
        """The groups that the client is in."""
        return list(self._conversation.groups)

    def group_message(self, message: Message) -> None:
        """`ResumableConsumer.group_message`."""
        self.push(message, content_of(message))

    websocket_broadcast = group_message

    def group_missed(self, message: Message) -> None:
        """`ResumableConsumer.group_missed`."""
        if message.get("group") is None and not self._conversation.has_history:
            run(self._conversation.missed())
        else:
            super().group_missed(message)

    def member_joined(self, event: Message) -> None:
        run(self._conversation.presence(event))

    member_updated = member_joined
    member_left = member_joined

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        run(self._conversation.receive(text_data))

    def hello_missing(self, message: Message) -> None:
        run(self._conversation.hello_missing())

    def websocket_disconnect(self, message: Any) -> None:
        if not hasattr(self.channel_layer, "group_resume"):  # ours notices the end of a consumer
            for group in self.joined_groups:
                self._discard(group)
        super().websocket_disconnect(message)

    def _discard(self, group: str) -> None:
        layer: Any = self.channel_layer
        async_to_sync(layer.group_discard)(group, self.channel_name)

    def _end(self, code: int) -> None:
        close_sync(self, code)
