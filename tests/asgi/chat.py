"""People in the demo chat's rooms: what a window's script sends and gets, without a browser."""

from __future__ import annotations

from typing import Any

from tests.asgi.client import Client


class Person:
    """One window of somebody, which is in the room when it is made."""

    def __init__(self, client: Client, name: str = "Ana", room: str = "lobby") -> None:
        self.client = client
        self.group = f"room.{room}"
        client.send(type="hello", version=1, token=name)
        client.send(type="join", group=self.group)
        self.joined: dict[str, Any] = client.receive_until(type="joined")

    @property
    def people(self) -> dict[str, int]:
        """Who was there, and in how many windows."""
        return {name: len(metas) for name, metas in self.joined["members"].items()}

    def send(self, message: Any) -> None:
        self.client.send(type="message", group=self.group, message=message)

    def say(self, text: str, message_id: str = "1") -> None:
        self.send({"type": "say", "id": message_id, "text": text})

    def hear(self, kind: str, **expected: Any) -> Any:
        """Return the next message of this type with these contents, whatever comes before it."""
        while True:
            message = self.client.receive_until(type="message")["message"]
            if {"type": kind, **expected}.items() <= message.items():
                return message

    def see(self, event: str, member: str) -> int | None:
        """Return in how many windows a member is after this event, which is awaited."""
        frame = self.client.receive_until(type="presence", event=event, member=member)
        return len(frame["metas"]) if "metas" in frame else None
