"""Queues over MQTT, which has none: each queue is kept by one of the nodes.

MQTT hands a message on or forgets it. So the messages of a queue lie in the memory of one node, its *keeper*. Whoever
puts or takes sends a request to the queue's topic, to which only the keeper subscribes (a shared subscription, so that
never two answer one request); the keeper answers to the asking node's own topic. Everything goes through the broker, so
that all see one order. When the broker says that nobody subscribes to the queue's topic (reason code 16), the asking
node becomes the keeper itself. A node that leaves politely hands its queues to any other node, or if there is none, to
the next of its process. When the broker dies, they stay where they are, and are offered again afterwards.

What the crash of a node costs: the messages and bindings of the queues that it keeps, and those on their way to its
readers. The end of the last process costs all queues. Whoever needs more wants a broker that has queues: Redis or
PostgreSQL.

Topics (a group's topic never begins so, see `mqtt_names`): ``%queue/<queue>`` for requests, ``%claim/<queue>`` for who
becomes its keeper, ``%node/<client id>`` for answers, ``%heirs`` for queues whose keeper leaves, ``%purge``. Whoever
else subscribes to them, as with ``#``, is taken for a keeper. (No wildcard matches what begins with ``$``; but of that
mosquitto 2.0.11 has no shared subscriptions.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import anyio

from ....core.exceptions import ChannelLayerError, DeliveryUnknown, ListenerClosed, PayloadTooLarge, QueueFull
from ....core.stats import RateLimitedLogger
from ..packets import NO_MATCHING_SUBSCRIBERS, Publish
from ..topics import to_group, to_topic
from .owner import Binding, Keeper, Wire, pack_bindings
from .protocol import Foreign, PackedBinding, encode, read_answer, read_legacy, read_prefix, read_request
from .readers import Readers
from .store import Packed, Stored, unpack

Heard = TypeVar("Heard", Publish, bytes)

logger = logging.getLogger("django_anyio_channels")

_REQUESTS, _CLAIMS, _NODES, _HEIRS, _PURGE = b"%queue/", b"%claim/", b"%node/", b"%heirs", b"%purge"
_SHARE = b"$share/anyio/"

_AGAIN_SECONDS = 1.0
"""How often what is not answered is asked again: the keeper may have died."""
_PATIENCE_SECONDS = 10.0
"""After how long without an answer nobody knows what became of a request."""
_LEAVE_SECONDS = 2.0
"""How long a polite goodbye may take."""
_LEGACY_BYTES = 256 * 1024
"""Messages in one packet of an inheritance, if the broker takes that."""
_ENVELOPE_BYTES = 64
"""What a message needs at most on its way between nodes, besides itself and the names of its queue and of a node."""
_WATCHED = (
    "Somebody subscribes to every topic (#), so the broker can't tell whether anybody keeps a normal channel: one "
    "whose keeper has gone finds no new one. Let them subscribe to the topics that are needed, none of them with %"
)


@dataclass(slots=True)
class _Legacy:
    """What is left of a queue whose keeper has gone."""

    topic: bytes
    messages: list[Stored]
    bindings: dict[str, Binding] = field(default_factory=dict)

    def portion(self, size: int) -> list[Stored]:
        """The first messages, as many as fit into so many bytes; at least one, if there are any."""
        for index, each in enumerate(self.messages):
            size -= len(each.message) + _ENVELOPE_BYTES
            if index and size < 0:
                return self.messages[:index]
        return self.messages


_legacies: dict[str, list[_Legacy]] = {}
"""What lives that ended still had and no other node took, by the broker's address.

The next life in this process offers it, whatever layer's and event loop's it is: a program may run one loop after the
other. Every access is one step, so threads may share it.
"""


@dataclass(slots=True)
class _Question:
    """A request that awaits its keeper's answer; None is the end of the life."""

    topic: bytes
    payload: bytes
    answer: asyncio.Future[Any]


@dataclass(slots=True)
class _Candidacy:
    """An attempt to become a queue's keeper."""

    first_claim: asyncio.Future[bytes | None]
    waiting: list[bytes] = field(default_factory=list)
    """Requests that came before it was decided."""


class MQTTQueues:
    """The queue verbs of `MQTTChannelLayer`, and this node's part in keeping queues."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        # A node that starts again under its former name must not repeat the numbers that keepers remember.
        self._numbers = count(random.getrandbits(48))
        self._prepared: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._elections: dict[bytes, asyncio.Task[None]] = {}
        self._candidacies: dict[bytes, _Candidacy] = {}
        self._keepers: dict[bytes, Keeper] = {}
        self._questions: dict[int, _Question] = {}
        self._readers = Readers(self, self._spawn)
        self._log = RateLimitedLogger()

    # ---- verbs --------------------------------------------------------------------------------------------------

    async def put(self, queue: str, message: bytes, capacity: int, expiry: float) -> None:
        """`BaseChannelLayer.put`."""
        topic = to_topic(queue)
        await self._prepare()
        size, most = len(message) + self._envelope(topic), self._wire.largest_packet
        if size > most:
            raise PayloadTooLarge(
                f"A message for queue {queue} needs {size} bytes on its way; {self._wire.address} takes at most "
                f"{most}. Send less, or raise the broker's limit (mosquitto: max_packet_size)"
            )
        answer = await self._ask(topic, "put", message, capacity, expiry)
        if answer == ["full"]:
            raise QueueFull(f"Queue {queue} is full: its capacity of {capacity} messages is used up")

    async def take(self, queue: str) -> bytes:
        """`BaseChannelLayer.take`."""
        await self._prepare()
        return await self._readers.take(to_topic(queue))

    async def bind(self, group: str, queue: str, capacity: int, expiry: float, lifetime: float) -> None:
        """`BaseChannelLayer.bind`."""
        await self._ask(to_topic(queue), "bind", [(group, capacity, expiry, lifetime)])

    async def unbind(self, group: str, queue: str) -> None:
        """`BaseChannelLayer.unbind`."""
        await self._ask(to_topic(queue), "unbind", group)

    async def purge(self, prefix: str) -> None:
        """`BaseChannelLayer.purge`."""
        await self._prepare()
        await self._wire.send(_PURGE, encode([prefix]))

    # ---- life ---------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """A new life: stand by as an heir, and offer what is left of the former one."""
        await self._listen(_SHARE + _HEIRS, self._on_legacy)
        if self._wire.address in _legacies and await self._is_watched():
            logger.error("The queues that %s kept are offered in its next life. %s", self._wire.address, _WATCHED)
            return
        legacies = _legacies.pop(self._wire.address, [])
        # Side by side: each takes several round trips, and whoever connects has a time limit.
        offers = [asyncio.get_running_loop().create_task(self._offer(legacy)) for legacy in legacies]
        try:
            for offer in offers:
                await offer
        finally:
            for legacy, offer in zip(legacies, offers, strict=True):
                offer.cancel()
                offer.add_done_callback(_noted)
                self._save(legacy)

    async def leave(self) -> None:
        """The polite end of a life: hand over what is kept here, and what has stranded."""
        with anyio.move_on_after(_LEAVE_SECONDS):
            with anyio.move_on_after(_LEAVE_SECONDS / 2):
                await self._readers.leave()
            await self._wire.stop_listening(_SHARE + _HEIRS)
            for topic in list(self._keepers):
                await self._bequeath(topic)
            await self._readers.give_all_back()
            # Not before: what is given back is answered. Nothing else comes any more, as no keeper knows a reader here.
            await self._wire.stop_listening(_NODES + self._wire.node.encode())

    def end(self) -> None:
        """The life is over; what is still here waits for the next."""
        if self._again is not None:
            self._again.cancel()
        self._prepared = self._again = None
        for question in self._questions.values():
            _resolve(question.answer, None)
        for candidacy in self._candidacies.values():
            _resolve(candidacy.first_claim, None)
        for topic, keeper in self._keepers.items():
            self._save(_Legacy(topic, keeper.store.clear(), keeper.bindings))
        self._readers.end(lambda topic, messages: self._save(_Legacy(topic, messages)))
        self._questions.clear()
        self._candidacies.clear()
        self._elections.clear()
        self._keepers.clear()

    async def finished(self) -> None:
        """Wait for the tasks of a life that is over."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _save(self, legacy: _Legacy) -> None:
        if legacy.messages or legacy.bindings:
            _legacies.setdefault(self._wire.address, []).append(legacy)

    async def _bequeath(self, topic: bytes) -> None:
        keeper = self._keepers[topic]
        await self._wire.stop_listening(_SHARE + _REQUESTS + topic)
        await keeper.stop_bindings()
        del self._keepers[topic]
        legacy = _Legacy(topic, keeper.store.clear(), keeper.bindings)
        try:
            for node, number in keeper.store.readers():
                await self._answer(node, number, ["again"])
            await self._give(legacy, self._give_to_heir)
        finally:
            self._save(legacy)

    async def _give_to_heir(self, topic: bytes, messages: list[Packed], bindings: list[PackedBinding]) -> bool:
        number, question = self._new_question(topic)
        legacy = encode([self._wire.node, number, topic, messages, bindings])
        if await self._wire.send(_HEIRS, legacy) == NO_MATCHING_SUBSCRIBERS:
            return False
        return await question.answer is not None

    async def _offer(self, legacy: _Legacy) -> None:
        """Give a legacy to its queue's keeper."""
        await self._give(legacy, self._inherit)

    async def _give(
        self, legacy: _Legacy, give: Callable[[bytes, list[Packed], list[PackedBinding]], Awaitable[bool]]
    ) -> None:
        """Give a legacy away by portions; what has not been taken stays in it."""
        topic = legacy.topic
        if legacy.bindings and await give(topic, [], pack_bindings(legacy.bindings)):
            legacy.bindings = {}
        while portion := legacy.portion(min(_LEGACY_BYTES, self._wire.largest_packet - self._envelope(topic))):
            if not await give(topic, [each.pack() for each in portion], []):
                return
            legacy.messages = legacy.messages[len(portion) :]

    def _on_legacy(self, message: Publish) -> None:
        node, number, topic, messages, bindings = read_legacy(message.payload)

        async def accept() -> None:
            await self._inherit(topic, messages, bindings)
            await self._answer(node, number, ["ok"])

        self._spawn(accept())

    async def _inherit(self, topic: bytes, messages: list[Packed], bindings: list[PackedBinding]) -> bool:
        if messages:
            await self._ask(topic, "back", messages)
        if bindings:
            await self._ask(topic, "bind", bindings)
        return True

    def _envelope(self, topic: bytes) -> int:
        """What the largest message may need on its way between nodes."""
        return _ENVELOPE_BYTES + 2 * (len(topic) + len(self._wire.node))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; the end of the life ends it, without noise, and what the broker refuses is logged."""

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ListenerClosed):
            logger.debug("Left undone: %s", error)
        elif error is not None:
            logger.warning("%s", error, exc_info=None if isinstance(error, ChannelLayerError) else error)

    # ---- asking -------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """Once a life: listen to answers. Raises `ListenerClosed`."""
        if self._prepared is None:
            self._prepared = asyncio.get_running_loop().create_task(self._listen_to_answers())
            self._prepared.add_done_callback(_noted)
            self._again = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._ask_again)
        prepared = self._prepared
        await asyncio.shield(prepared)
        if self._prepared is not prepared:
            raise ListenerClosed(f"The link to {self._wire.address} broke")

    async def _listen_to_answers(self) -> None:
        await self._listen(_NODES + self._wire.node.encode(), self._on_answer)
        await self._listen(_PURGE, self._on_purge)
        if await self._is_watched():
            logger.warning("%s: %s", self._wire.address, _WATCHED)

    async def _listen(self, topic_filter: bytes, handle: Callable[[Publish], None]) -> None:
        await self._wire.listen(topic_filter, lambda message: self._heard(message.topic, handle, message))

    def _heard(self, topic: bytes, handle: Callable[[Heard], None], what: Heard) -> None:
        try:
            handle(what)
        except Foreign as error:
            text = "Dropped what somebody else published to %s, where only nodes speak: %s"
            self._log.write(logging.ERROR, text, topic.decode(errors="replace"), error)

    async def _is_watched(self) -> bool:
        """Whether somebody subscribes to what nobody can know of."""
        try:
            return await self._wire.send(_NODES + uuid4().hex.encode(), b"") != NO_MATCHING_SUBSCRIBERS
        except ListenerClosed:
            return False

    def _new_question(self, topic: bytes, payload: bytes = b"") -> tuple[int, _Question]:
        number = next(self._numbers)
        question = self._questions[number] = _Question(topic, payload, asyncio.get_running_loop().create_future())
        return number, question

    async def _ask(self, topic: bytes, verb: str, *arguments: Any) -> list[Any]:
        """Ask a queue's keeper, and return its answer."""
        await self._prepare()
        number, question = self._new_question(topic)
        question.payload = encode([verb, self._wire.node, number, *arguments])
        answer = None
        try:
            await self._request(topic, question.payload)
            with anyio.move_on_after(_PATIENCE_SECONDS):
                answer = await question.answer
        finally:
            self._questions.pop(number, None)
        if answer is None:
            outcome = (
                f"The queue {to_group(topic)} was asked to {verb}, and the link broke or its keeper did not answer "
                f"within {_PATIENCE_SECONDS:g} s; it may or may not have done it"
            )
            if await self._is_watched():
                raise ChannelLayerError(f"{outcome}. {_WATCHED}")
            raise DeliveryUnknown(outcome)
        return list(answer)

    async def _request(self, topic: bytes, payload: bytes) -> None:
        """Bring a request to the queue's keeper; if there is none, that is us."""
        while await self._wire.send(_REQUESTS + topic, payload) == NO_MATCHING_SUBSCRIBERS:
            await self._become_keeper(topic)

    def _ask_again(self) -> None:
        self._again = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._ask_again)
        self._readers.remind()
        for question in self._questions.values():
            if question.payload and not question.answer.done():
                self._spawn(self._request(question.topic, question.payload))

    # What `Readers` need of us.

    async def announce(self, topic: bytes, numbers: list[int]) -> None:
        await self._request(topic, encode(["take", self._wire.node, 0, numbers]))

    async def withdraw(self, topic: bytes, numbers: list[int]) -> None:
        number, question = self._new_question(topic)
        request = encode(["stop", self._wire.node, number, numbers])
        try:
            if await self._wire.send(_REQUESTS + topic, request) != NO_MATCHING_SUBSCRIBERS:
                with anyio.move_on_after(_PATIENCE_SECONDS):
                    await question.answer
        finally:
            self._questions.pop(number, None)

    async def give_back(self, topic: bytes, messages: list[Stored]) -> None:
        legacy = _Legacy(topic, messages)
        try:
            await self._offer(legacy)
        finally:
            self._save(legacy)

    # ---- answers ------------------------------------------------------------------------------------------------

    async def _answer(self, node: str, number: int, answer: list[Any]) -> bool:
        """Answer a node's request; False if there is no such node."""
        if node == self._wire.node:
            self._receive_answer(number, answer)
            return True
        payload = encode([number, *answer])
        return await self._wire.send(_NODES + node.encode(), payload) != NO_MATCHING_SUBSCRIBERS

    def _on_answer(self, message: Publish) -> None:
        number, kind, found = read_answer(message.payload)
        self._receive_answer(number, [kind, *found])

    def _receive_answer(self, number: int, answer: list[Any]) -> None:
        if answer[0] == "message":
            self._readers.arrive(answer[1], unpack(answer[2]), number)
        elif answer[0] == "again":
            self._readers.ask_again(number)
        elif (question := self._questions.get(number)) is not None:
            _resolve(question.answer, answer)

    # ---- keeping ------------------------------------------------------------------------------------------------

    async def _become_keeper(self, topic: bytes) -> None:
        """Become the keeper of a queue, or find that another node has become it meanwhile."""
        election = self._elections.get(topic)
        if election is None:
            election = self._elections[topic] = asyncio.get_running_loop().create_task(self._stand(topic))
            election.add_done_callback(lambda _: self._elections.pop(topic, None))
            election.add_done_callback(_noted)
        await asyncio.shield(election)

    async def _stand(self, topic: bytes) -> None:
        """Of all candidates the one wins whose claim comes first; all see the claims in the broker's order.

        A candidate asks for the keeper when it can hear claims, and claims when it can hear requests. So if two find no
        keeper, each hears the other's claim: whoever is found later would have found the other already.
        """
        wire, name = self._wire, self._wire.node.encode()
        candidacy = self._candidacies[topic] = _Candidacy(asyncio.get_running_loop().create_future())
        await wire.listen(_CLAIMS + topic, lambda claim: _resolve(candidacy.first_claim, claim.payload))
        if await wire.send(_REQUESTS + topic, encode(["hello", "", 0])) == NO_MATCHING_SUBSCRIBERS:
            await self._listen(_SHARE + _REQUESTS + topic, lambda request: self._on_request(topic, request.payload))
            await wire.send(_CLAIMS + topic, name)
            if await candidacy.first_claim == name:
                self._keepers[topic] = Keeper(topic, wire, self._answer, self._spawn)
            else:
                await wire.stop_listening(_SHARE + _REQUESTS + topic)
        del self._candidacies[topic]
        for payload in candidacy.waiting:
            self._heard(_REQUESTS + topic, partial(self._on_request, topic), payload)
        await wire.stop_listening(_CLAIMS + topic)

    def _on_request(self, topic: bytes, payload: bytes) -> None:
        keeper = self._keepers.get(topic)
        if keeper is not None:
            keeper.handle(read_request(payload))
        elif topic in self._candidacies:
            self._candidacies[topic].waiting.append(payload)
        else:
            self._spawn(self._request(topic, payload))

    def _on_purge(self, message: Publish) -> None:
        prefix = read_prefix(message.payload)
        for topic, keeper in self._keepers.items():
            if to_group(topic).startswith(prefix):
                keeper.purge()
        self._readers.purge(prefix)


def _noted(task: asyncio.Task[None]) -> None:
    """Whoever awaits the task gets its error; if all of them have gone, nobody needs to hear of it."""
    _ = task.cancelled() or task.exception()


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


# What a forked child has of it are copies, and the parent offers the messages itself.
os.register_at_fork(after_in_child=_legacies.clear)
