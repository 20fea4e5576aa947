"""Queues over MQTT, which has none: each queue is kept by one of the nodes.

MQTT hands a message on or forgets it. So the messages of a queue lie in the memory of one node, its *keeper*. Whoever
puts or takes sends a request to the queue's topic, to which only the keeper subscribes (a shared subscription, so that
never two answer one request); the keeper answers to the asking node's own topic. Everything goes through the broker, so
that all see one order. When the broker says that nobody subscribes to the queue's topic (reason code 16), the asking
node becomes the keeper itself. A node that leaves politely hands its queues to any other node. When the broker dies,
they stay where they are, and are offered again afterwards.

What the crash of a node costs: the messages and bindings of the queues that it keeps, and those on their way to its
readers. Whoever needs more wants a broker that has queues: Redis or PostgreSQL.

Topics (a group's topic never begins so, see `mqtt_names`): ``%queue/<queue>`` for requests, ``%claim/<queue>`` for who
becomes its keeper, ``%node/<client id>`` for answers, ``%heirs`` for queues whose keeper leaves, ``%purge``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio
import msgspec

from ..exceptions import DeliveryUnknown, ListenerClosed, QueueFull
from .mqtt_keeper import Binding, Keeper, PackedBinding, Wire, pack_bindings
from .mqtt_names import to_group, to_topic
from .mqtt_packets import NO_MATCHING_SUBSCRIBERS, Publish
from .mqtt_store import Packed, Store, Stored, unpack

logger = logging.getLogger("django_anyio_channels")

_REQUESTS, _CLAIMS, _NODES, _HEIRS, _PURGE = b"%queue/", b"%claim/", b"%node/", b"%heirs", b"%purge"
_SHARE = b"$share/anyio/"

_AGAIN_SECONDS = 1.0
"""How often what is not answered is asked again: the keeper may have died."""
_PATIENCE_SECONDS = 10.0
"""After how long without an answer nobody knows what became of a request."""
_LINGER_SECONDS = 0.05
"""How long a message stays here whose reader has gone, before it goes back: many readers poll."""
_LEAVE_SECONDS = 2.0
"""How long a polite goodbye may take."""
_LEGACY_BYTES = 256 * 1024
"""Messages in one packet of an inheritance."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode


@dataclass(slots=True)
class _Question:
    """A request that awaits its answer; None is the end of the life."""

    topic: bytes
    payload: bytes
    answer: asyncio.Future[Any]
    """The keeper's answer, or for a reader the message."""


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
        self._numbers = count(1)
        self._prepared: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._elections: dict[bytes, asyncio.Task[None]] = {}
        self._candidacies: dict[bytes, _Candidacy] = {}
        self._keepers: dict[bytes, Keeper] = {}
        self._questions: dict[int, _Question] = {}
        self._readers: dict[bytes, dict[int, _Question]] = {}
        """The tasks of this node that wait for messages, by queue."""
        self._stranded: dict[bytes, Store] = {}
        """Messages that came for a reader who had gone."""
        self._returning: set[bytes] = set()
        """Queues to whose keeper messages are on their way back."""
        self._legacy: dict[bytes, tuple[list[Stored], dict[str, Binding]]] = {}
        """What this node still had when its former life ended."""

    # ---- verbs --------------------------------------------------------------------------------------------------

    async def put(self, queue: str, message: bytes, capacity: int, expiry: float) -> None:
        """`BaseChannelLayer.put`."""
        answer = await self._ask(to_topic(queue), "put", message, capacity, expiry)
        if answer == ["full"]:
            raise QueueFull(f"Queue {queue} is full: its capacity of {capacity} messages is used up")

    async def take(self, queue: str) -> bytes:
        """`BaseChannelLayer.take`."""
        topic = to_topic(queue)
        await self._prepare()
        while True:
            stored = self._pop_stranded(topic) or await self._wait_for_message(topic)
            if stored is not None:
                return stored.message

    async def bind(self, group: str, queue: str, capacity: int, expiry: float, lifetime: float) -> None:
        """`BaseChannelLayer.bind`."""
        await self._ask(to_topic(queue), "bind", [(group, capacity, expiry, lifetime)])

    async def unbind(self, group: str, queue: str) -> None:
        """`BaseChannelLayer.unbind`."""
        await self._ask(to_topic(queue), "unbind", group)

    async def purge(self, prefix: str) -> None:
        """`BaseChannelLayer.purge`."""
        await self._prepare()
        await self._wire.send(_PURGE, _encode([prefix]))

    # ---- life ---------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """A new life: stand by as an heir, and offer what is left of the former one."""
        await self._wire.listen(_SHARE + _HEIRS, self._on_legacy)
        for topic, (messages, bindings) in list(self._legacy.items()):
            await self._inherit(topic, [each.pack() for each in messages], pack_bindings(bindings))
            del self._legacy[topic]

    async def leave(self) -> None:
        """The polite end of a life: hand over what is kept here, and what has stranded."""
        with anyio.move_on_after(_LEAVE_SECONDS):
            for topic, readers in list(self._readers.items()):
                for number in list(readers):
                    await self._wire.send(_REQUESTS + topic, _encode(["stop", self._wire.node, number]))
            await self._wire.stop_listening(_SHARE + _HEIRS)
            for topic in list(self._keepers):
                await self._bequeath(topic)
            if self._prepared is not None:
                await self._wire.stop_listening(_NODES + self._wire.node.encode())
            for topic in list(self._stranded):
                await self._send_back(topic)

    def end(self) -> None:
        """The life is over; what is still here waits for the next."""
        if self._again is not None:
            self._again.cancel()
        self._prepared = self._again = None
        readers = [question for each in self._readers.values() for question in each.values()]
        for question in [*self._questions.values(), *readers]:
            _resolve(question.answer, None)
        for candidacy in self._candidacies.values():
            _resolve(candidacy.first_claim, None)
        for topic, keeper in self._keepers.items():
            self._save(topic, keeper.store.clear(), keeper.bindings)
        for topic, store in self._stranded.items():
            self._save(topic, store.clear(), {})
        self._questions.clear()
        self._readers.clear()
        self._candidacies.clear()
        self._elections.clear()
        self._keepers.clear()
        self._stranded.clear()

    async def finished(self) -> None:
        """Wait for the tasks of a life that is over."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _save(self, topic: bytes, messages: list[Stored], bindings: dict[str, Binding]) -> None:
        if messages or bindings:
            saved_messages, saved_bindings = self._legacy.get(topic, ([], {}))
            self._legacy[topic] = (sorted(saved_messages + messages), saved_bindings | bindings)

    async def _bequeath(self, topic: bytes) -> None:
        keeper = self._keepers[topic]
        await self._wire.stop_listening(_SHARE + _REQUESTS + topic)
        await keeper.stop_bindings()
        del self._keepers[topic]
        messages, bindings = keeper.store.clear(), keeper.bindings
        try:
            for node, number in keeper.store.readers():
                await self._answer(node, number, ["again"])
            while messages or bindings:
                portion = _portion(messages)
                number, question = self._new_question(topic)
                legacy = [self._wire.node, number, topic, [each.pack() for each in portion], pack_bindings(bindings)]
                if await self._wire.send(_HEIRS, _encode(legacy)) == NO_MATCHING_SUBSCRIBERS:
                    return
                await question.answer
                messages, bindings = messages[len(portion) :], {}
        finally:
            self._save(topic, messages, bindings)

    def _on_legacy(self, message: Publish) -> None:
        node, number, topic, messages, bindings = _decode(message.payload)

        async def accept() -> None:
            await self._inherit(topic, messages, bindings)
            await self._answer(node, number, ["ok"])

        self._spawn(accept())

    async def _inherit(self, topic: bytes, messages: list[Packed], bindings: list[PackedBinding]) -> None:
        if messages:
            await self._ask(topic, "back", messages)
        if bindings:
            await self._ask(topic, "bind", bindings)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; the end of the life ends it, without noise."""

        async def run() -> None:
            try:
                await work
            except ListenerClosed as error:
                logger.debug("Left undone: %s", error)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- asking -------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """Once a life: listen to answers. Raises `ListenerClosed`."""
        if self._prepared is None:
            self._prepared = asyncio.get_running_loop().create_task(self._listen_to_answers())
        await asyncio.shield(self._prepared)

    async def _listen_to_answers(self) -> None:
        await self._wire.listen(_NODES + self._wire.node.encode(), self._on_answer)
        await self._wire.listen(_PURGE, self._on_purge)
        self._again = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._ask_again)

    def _new_question(self, topic: bytes, payload: bytes = b"") -> tuple[int, _Question]:
        number = next(self._numbers)
        question = self._questions[number] = _Question(topic, payload, asyncio.get_running_loop().create_future())
        return number, question

    async def _ask(self, topic: bytes, verb: str, *arguments: Any) -> list[Any]:
        """Ask a queue's keeper, and return its answer."""
        await self._prepare()
        number, question = self._new_question(topic)
        question.payload = _encode([verb, self._wire.node, number, *arguments])
        answer = None
        try:
            await self._request(topic, question.payload)
            with anyio.move_on_after(_PATIENCE_SECONDS):
                answer = await question.answer
        finally:
            self._questions.pop(number, None)
        if answer is None:
            raise DeliveryUnknown(
                f"The queue {to_group(topic)} was asked to {verb}, and the link broke or its keeper did not answer "
                f"within {_PATIENCE_SECONDS:g} s; it may or may not have done it"
            )
        return list(answer)

    async def _request(self, topic: bytes, payload: bytes) -> None:
        """Bring a request to the queue's keeper; if there is none, that is us."""
        while await self._wire.send(_REQUESTS + topic, payload) == NO_MATCHING_SUBSCRIBERS:
            await self._become_keeper(topic)

    def _ask_again(self) -> None:
        self._again = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._ask_again)
        readers = [question for each in self._readers.values() for question in each.values()]
        for question in [*self._questions.values(), *readers]:
            if question.payload and not question.answer.done():
                self._spawn(self._request(question.topic, question.payload))

    async def _wait_for_message(self, topic: bytes) -> Stored | None:
        """The next message for this task; None to look again."""
        number, question = self._new_question(topic)
        del self._questions[number]
        question.payload = _encode(["take", self._wire.node, number])
        self._readers.setdefault(topic, {})[number] = question
        try:
            await self._request(topic, question.payload)
            answer = await question.answer
        except BaseException:
            self._stop_waiting(topic, number, question)
            raise
        finally:
            self._forget_reader(topic, number)
        if answer is None:
            raise ListenerClosed(f"The link broke while a message of queue {to_group(topic)} was awaited")
        return answer if isinstance(answer, Stored) else None

    def _stop_waiting(self, topic: bytes, number: int, question: _Question) -> None:
        """A reader goes: a message that it has been given already is for another."""
        answer = question.answer
        self._forget_reader(topic, number)
        if answer.done() and not answer.cancelled():
            if isinstance(given := answer.result(), Stored):
                self._arrive(topic, given, number)
        else:
            self._spawn(self._tell_stop(topic, number))

    async def _tell_stop(self, topic: bytes, number: int) -> None:
        await self._wire.send(_REQUESTS + topic, _encode(["stop", self._wire.node, number]))

    def _forget_reader(self, topic: bytes, number: int) -> None:
        readers = self._readers.get(topic, {})
        readers.pop(number, None)
        if not readers:
            self._readers.pop(topic, None)

    # ---- answers ------------------------------------------------------------------------------------------------

    async def _answer(self, node: str, number: int, answer: list[Any]) -> bool:
        """Answer a node's request; False if there is no such node."""
        if node == self._wire.node:
            self._receive_answer(number, answer)
            return True
        payload = _encode([number, *answer])
        return await self._wire.send(_NODES + node.encode(), payload) != NO_MATCHING_SUBSCRIBERS

    def _on_answer(self, message: Publish) -> None:
        number, *answer = _decode(message.payload)
        self._receive_answer(number, answer)

    def _receive_answer(self, number: int, answer: list[Any]) -> None:
        if answer[0] == "message":
            self._arrive(answer[1], unpack(answer[2]), number)
            return
        question = self._questions.get(number) or next(
            (readers[number] for readers in self._readers.values() if number in readers), None
        )
        if question is not None:
            _resolve(question.answer, answer)

    def _arrive(self, topic: bytes, stored: Stored, number: int) -> None:
        """A message came for a reader. If that has gone, another reader here gets it, or it goes back soon."""
        question = self._readers.get(topic, {}).get(number)
        if question is not None and not question.answer.done() and topic not in self._stranded:
            question.answer.set_result(stored)
            return
        if topic not in self._stranded:
            self._stranded[topic] = Store()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._linger_is_over, topic, self._stranded[topic])
        self._stranded[topic].insert([stored])
        self._serve_stranded(topic)

    def _serve_stranded(self, topic: bytes) -> None:
        """Give what has stranded to the readers of this node, the oldest first."""
        if topic in self._returning:
            return  # older ones are on their way to the keeper; these must follow, or they would overtake them
        for number, question in self._readers.get(topic, {}).items():
            if not question.answer.done():
                stored = self._pop_stranded(topic)
                if stored is None:
                    return
                question.answer.set_result(stored)
                self._spawn(self._tell_stop(topic, number))

    def _pop_stranded(self, topic: bytes) -> Stored | None:
        store = self._stranded.get(topic)
        return None if store is None or topic in self._returning else store.pop()

    def _linger_is_over(self, topic: bytes, store: Store) -> None:
        if self._stranded.get(topic) is store:
            self._spawn(self._send_back(topic))

    async def _send_back(self, topic: bytes) -> None:
        while topic in self._stranded and (messages := self._stranded[topic].clear()):
            self._returning.add(topic)
            try:
                while messages:
                    portion = _portion(messages)
                    await self._inherit(topic, [each.pack() for each in portion], [])
                    del messages[: len(portion)]
            except ListenerClosed:
                self._save(topic, messages, {})
                raise
            finally:
                self._returning.discard(topic)
        self._stranded.pop(topic, None)

    # ---- keeping ------------------------------------------------------------------------------------------------

    async def _become_keeper(self, topic: bytes) -> None:
        """Become the keeper of a queue, or find that another node has become it meanwhile."""
        election = self._elections.get(topic)
        if election is None:
            election = self._elections[topic] = asyncio.get_running_loop().create_task(self._stand(topic))
            election.add_done_callback(lambda _: self._elections.pop(topic, None))
        await asyncio.shield(election)

    async def _stand(self, topic: bytes) -> None:
        """Of all candidates the one wins whose claim comes first; all see the claims in the broker's order.

        A candidate asks for the keeper when it can hear claims, and claims when it can hear requests. So if two find no
        keeper, each hears the other's claim: whoever is found later would have found the other already.
        """
        wire, name = self._wire, self._wire.node.encode()
        candidacy = self._candidacies[topic] = _Candidacy(asyncio.get_running_loop().create_future())
        await wire.listen(_CLAIMS + topic, lambda claim: _resolve(candidacy.first_claim, claim.payload))
        if await wire.send(_REQUESTS + topic, _encode(["hello", "", 0])) == NO_MATCHING_SUBSCRIBERS:
            await wire.listen(_SHARE + _REQUESTS + topic, lambda request: self._on_request(topic, request.payload))
            await wire.send(_CLAIMS + topic, name)
            if await candidacy.first_claim == name:
                self._keepers[topic] = Keeper(topic, wire, self._answer, self._spawn)
            else:
                await wire.stop_listening(_SHARE + _REQUESTS + topic)
        del self._candidacies[topic]
        for request in candidacy.waiting:
            self._on_request(topic, request)
        await wire.stop_listening(_CLAIMS + topic)

    def _on_request(self, topic: bytes, payload: bytes) -> None:
        keeper = self._keepers.get(topic)
        if keeper is not None:
            keeper.handle(_decode(payload))
        elif topic in self._candidacies:
            self._candidacies[topic].waiting.append(payload)
        else:
            self._spawn(self._request(topic, payload))

    def _on_purge(self, message: Publish) -> None:
        (prefix,) = _decode(message.payload)
        for topic, keeper in self._keepers.items():
            if to_group(topic).startswith(prefix):
                keeper.purge()
        for topic, store in self._stranded.items():
            if to_group(topic).startswith(prefix):
                store.clear()


def _portion(messages: list[Stored]) -> list[Stored]:
    """The first messages, at least one, as many as fit into one packet."""
    size = 0
    for index, each in enumerate(messages):
        size += len(each.message)
        if index and size > _LEGACY_BYTES:
            return messages[:index]
    return messages


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
