"""The background worker: what would hold up the chat if the server did it."""

from __future__ import annotations

import random
import time
from typing import Any

from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer

TIMES = " \N{MULTIPLICATION SIGN} "


class Reckoner(SyncConsumer):
    """Reads tasks from a normal channel, and sends each answer to the room it was asked in.

    However many workers run, each task goes to one of them.
    """

    def task_hello(self, message: dict[str, Any]) -> None:
        """Reply to one consumer that a worker runs."""
        async_to_sync(self.channel_layer.send)(message["reply"], {"type": "worker.here"})

    def task_roll(self, message: dict[str, Any]) -> None:
        count, sides = message["numbers"]
        dice = [random.randint(1, sides) for _ in range(count)]
        self._answer(message, " + ".join(map(str, dice)) + (f" = {sum(dice)}" if count > 1 else ""))

    def task_factor(self, message: dict[str, Any]) -> None:
        [number] = message["numbers"]
        started = time.perf_counter()
        factors = prime_factors(number)
        took = (time.perf_counter() - started) * 1000
        answer = f"{number} = {TIMES.join(map(str, factors))}" if len(factors) > 1 else f"{number} is a prime"
        self._answer(message, answer, f"{took:.1f} ms")

    def _answer(self, message: dict[str, Any], answer: str, note: str = "") -> None:
        async_to_sync(self.channel_layer.group_send)(
            message["group"], {"type": "room.answered", "id": message["id"], "answer": answer, "note": note}
        )


def prime_factors(number: int) -> list[int]:
    """The prime factors of a number above 1, in order, by trial division."""
    factors = []
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1 if divisor == 2 else 2
    return [*factors, number] if number > 1 else factors
