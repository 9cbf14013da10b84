"""The members of a pool and who does what: requests to the server with the least work, dead servers started again.

Everything here runs in one event loop, in a thread of its own (`generator.py`). A member is asked while it is ready: it
answers, and holds the weights that were pushed last. What a member was asked when it died is asked of another; what it
samples does not depend on who does, for the seed goes with the request.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tasks.shared.generation.pool.client import Client, Completion, ServerLost
from tasks.shared.generation.pool.server import PoolFailed, Server

START_S = 1800.0  # a large model from a slow disk
POLL_S = 0.2
WATCH_S = 1.0
MOST_SILENT = 3  # times in a row that a server may fail to answer, at 30 s each, before it counts as dead
ABSENT_S = 600.0  # how long requests wait while no server is ready
ATTEMPTS = 6  # times that one request is asked


@dataclass(slots=True, eq=False)
class Ask:
    """One piece to sample."""

    request_id: str
    ids: list[int]
    sampling: dict[str, Any]
    member: "Member | None" = None  # where its prefix lies
    attempts: int = 0
    task: "asyncio.Task[None] | None" = None  # of the last attempt
    unwanted: bool = False  # nobody waits for it any more


@dataclass(slots=True)
class Member:
    """One server."""

    name: str
    server: Server | None  # None: it runs already, and nobody starts it again
    url: str = ""
    client: Client | None = None
    ready: bool = False  # it answers, and holds the weights that were pushed last
    was_ready: bool = False
    waits_for_push: bool = False  # it answers, and there are no files with the weights of today
    # set by whoever got no answer: nobody asks it until it was seen to be well
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # one a request

    @property
    def can_be_asked(self) -> bool:
        """True if it is ready and nobody doubts it."""
        return self.ready and not self.doubted.is_set()


class Pool:
    """Servers, what waits for them, and what they are asked."""

    def __init__(
        self,
        members: Sequence[Member],
        token: str,
        *,
        version: str,
        paths: Sequence[str],
        slots: int,
        take: Callable[[Ask, Completion, Member], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """`version` names the weights of the checkpoint, which are in the safetensors files `paths`.

        `slots`: requests that a server decodes side by side; `take` gets what was sampled, `fail` what ends all.
        """
        self.members = list(members)
        self.version = version  # of the weights that every ready member holds
        self.num_lost = 0  # servers that died or fell silent
        self._paths: tuple[str, ...] | None = tuple(paths)  # files with these weights; None: there are none
        self._pushed = False  # other weights than those that servers start with
        self._token = token
        self._slots = slots
        self._take = take
        self._fail = fail
        self._waiting: deque[Ask] = deque()
        self._keepers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()  # a member became ready, or was lost
        self._weights = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Start every server and look after it from now on."""
        self._session = session
        self._keepers = [asyncio.create_task(self._keep(member)) for member in self.members]
        self._keepers.append(asyncio.create_task(self._watch_all()))

    async def close(self) -> None:
        """Leave the servers alone; those that were started end with their processes."""
        self._closed = True
        tasks = [*self._keepers, *(task for member in self.members for task in member.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def put(self, ask: Ask) -> None:
        """Ask as soon as a server is free; at once where the request's prefix lies."""
        if ask.member is not None and ask.member.can_be_asked:
            self._start(ask, ask.member)
        elif ask.member is not None:
            self._waiting.appendleft(ask)  # it has been at work before those that have not begun
            self._dispatch()
        else:
            self._waiting.append(ask)
            self._dispatch()

    def forget(self, ask: Ask) -> None:
        """Nobody waits for it any more: its server hears that the connection has closed."""
        ask.unwanted = True
        if ask in self._waiting:
            self._waiting.remove(ask)
        elif ask.task is not None:
            ask.task.cancel()

    async def all_started(self) -> None:
        """Wait until every server has been ready once, and one of them is; raises PoolFailed if none is any more."""
        while not all(member.was_ready for member in self.members):
            self._changed.clear()
            await self._changed.wait()
        await self.first_ready(0)

    async def first_ready(self, number: int) -> Member:
        """A member that is ready, another one for each `number` in turn. Raises PoolFailed if none comes."""
        deadline = time.monotonic() + ABSENT_S
        while not (ready := [member for member in self.members if member.ready]):
            self._changed.clear()
            await _up_to(WATCH_S, self._changed)
            if time.monotonic() > deadline:
                raise _absent()
        return ready[number % len(ready)]

    async def push(self, paths: Sequence[str], version: str) -> None:
        """Give every ready member these weights; the others get them when they are. Paths stay until the next push."""
        async with self._weights:
            self._paths, self.version, self._pushed = tuple(paths), version, True
            ready = [member for member in self.members if member.ready]
            await asyncio.gather(*(self._give(member) for member in ready))

    async def pause_for_push(self) -> list[Member]:
        """Begin a push that leaves no files: the members that are there wait for it, those that come wait for the next.

        `finish_push` ends it.
        """
        await self._weights.acquire()
        self._paths, self._pushed = None, True
        there = [member for member in self.members if member.ready or member.waits_for_push]
        paused = await asyncio.gather(*(_pauses(member) for member in there))
        for member, is_paused in zip(there, paused, strict=True):
            if not is_paused:
                member.waits_for_push = False
                self._lose(member)
                self._changed.set()
        return [member for member, is_paused in zip(there, paused, strict=True) if is_paused]

    async def num_workers(self, members: Sequence[Member]) -> list[int]:
        """The GPUs of each."""
        return list(await asyncio.gather(*(_client(member).num_workers() for member in members)))

    async def join_group(
        self, members: Sequence[Member], group: dict[str, Any], offsets: Sequence[int]
    ) -> None:
        """Let each join a group with its workers from its offset on."""
        joining = zip(members, offsets, strict=True)
        await asyncio.gather(*(_client(m).join_group(group | {"rank_offset": first}) for m, first in joining))

    async def start_push(self, members: Sequence[Member]) -> None:
        """Make them ready to receive."""
        await asyncio.gather(*(_client(member).start_transfer() for member in members))

    async def receive(self, members: Sequence[Member], described: dict[str, Any]) -> None:
        """Let each receive what this process broadcasts meanwhile."""
        await asyncio.gather(*(_client(member).receive(described) for member in members))

    async def finish_push(self, members: Sequence[Member], version: str) -> None:
        """Let them go on with what they have received."""
        await asyncio.gather(*(_client(member).finish_transfer(version) for member in members))
        self.version = version
        for member in members:
            await _client(member).resume()
            member.ready, member.waits_for_push = True, False
        self._weights.release()
        self._changed.set()
        self._dispatch()

    async def digests(self) -> dict[str, dict[str, str]]:
        """What each ready member holds: digests of its tensors, by its name."""
        async with self._weights:
            ready = [member for member in self.members if member.ready]
            found = await asyncio.gather(*(_client(member).digests() for member in ready))
        return {member.name: digests for member, digests in zip(ready, found, strict=True)}

    async def _give(self, member: Member) -> None:
        """Give a member the weights of `version`. It leaves the pool if it is lost meanwhile."""
        assert self._paths is not None
        try:
            await _client(member).take_weights(self._paths, self.version)
        except ServerLost as error:
            if await _client(member).is_healthy():
                raise _refused(member, error) from None
            self._lose(member)

    def _dispatch(self) -> None:
        """Hand what waits to the servers with the least work, as far as they have room."""
        while self._waiting:
            free = [m for m in self.members if m.can_be_asked and len(m.tasks) < self._slots]
            if not free:
                return
            self._start(self._waiting.popleft(), min(free, key=lambda member: len(member.tasks)))

    def _start(self, ask: Ask, member: Member) -> None:
        ask.member = member
        ask.attempts += 1
        task = asyncio.create_task(self._ask(ask, member))
        member.tasks.add(task)
        ask.task = task

        def end(task: asyncio.Task[None]) -> None:
            member.tasks.discard(task)
            if task.cancelled():  # its server was lost, perhaps before the task had begun
                self._again(ask, f"{member.name} was lost")
            self._dispatch()

        task.add_done_callback(end)

    async def _ask(self, ask: Ask, member: Member) -> None:
        try:
            completion = await _client(member).generate(ask.ids, ask.sampling, salt=self.version)
            self._take(ask, completion, member)
        except ServerLost as error:
            member.doubted.set()
            self._again(ask, str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, it ends the caller's step
            self._fail(error)

    def _again(self, ask: Ask, reason: str) -> None:
        """Ask once more, before all that have not begun."""
        if ask.unwanted:
            return
        if ask.attempts == ATTEMPTS:
            self._fail(PoolFailed(f"request {ask.request_id} failed {ATTEMPTS} times; at last: {reason}"))
        elif not self._closed:
            ask.member = None
            self._waiting.appendleft(ask)

    async def _keep(self, member: Member) -> None:
        """Look after one member as long as the pool lives."""
        try:
            while True:
                await self._bring_up(member)
                await self._watch(member)
                self._lose(member)
        except Exception as error:  # noqa: BLE001  whatever it is, it ends the caller's step
            self._fail(error)

    async def _bring_up(self, member: Member) -> None:
        """Start the member if it is ours, wait until it answers, give it the weights of today."""
        while not member.ready:
            client = await self._answering(member)
            try:
                await self._bring_up_to_date(member, client)
            except ServerLost as error:
                if await client.is_healthy():
                    raise _refused(member, error) from None
        member.was_ready = True
        member.doubted.clear()
        self._changed.set()
        self._dispatch()

    async def _bring_up_to_date(self, member: Member, client: Client) -> None:
        """Give a member that answers the weights of today; where there are no files of them, at the next push."""
        async with self._weights:
            if self._pushed or member.server is None:
                member.waits_for_push = self._paths is None
                if self._paths is not None:
                    await client.take_weights(self._paths, self.version)
            else:
                await client.name_weights(self.version)
            member.ready = not member.waits_for_push
        while member.waits_for_push:
            self._changed.clear()
            await self._changed.wait()

    async def _answering(self, member: Member) -> Client:
        """A client of the member, once that answers; one that was lost may come back at any time."""
        assert self._session is not None
        deadline = time.monotonic() + START_S
        started = False
        while True:
            server = member.server
            if server is not None and (not started or server.ended()):
                if started and not member.was_ready and not server.elsewhere:
                    raise PoolFailed(f"{member.name} does not start; {server.last_words()}")
                url = await asyncio.to_thread(server.start)
                member.url, started = url or "", url is not None
            if member.url:
                member.client = Client(self._session, member.url, self._token)
                if await member.client.is_healthy():
                    return member.client
            if not member.was_ready and time.monotonic() > deadline:
                raise PoolFailed(f"{member.name} did not answer within {START_S:.0f} s")
            await asyncio.sleep(POLL_S)

    async def _watch(self, member: Member) -> None:
        """Return once the member has died, or answers no more."""
        silent = 0
        while silent < MOST_SILENT and member.ready:
            await _up_to(WATCH_S, member.doubted)
            if member.server is not None and member.server.ended():
                return
            if await _client(member).is_healthy():
                silent = 0
                member.doubted.clear()
                self._dispatch()
            else:
                silent += 1
                await asyncio.sleep(POLL_S)

    async def _watch_all(self) -> None:
        """End the step of a caller that waits for servers of which none comes back."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            if any(member.ready for member in self.members) or not self._waiting:
                last = time.monotonic()
            elif time.monotonic() - last > ABSENT_S and any(member.was_ready for member in self.members):
                return self._fail(_absent())

    def _lose(self, member: Member) -> None:
        """Take a member out; what it was asked is asked again."""
        if not member.ready:
            return
        member.ready = False
        self.num_lost += 1
        self._changed.set()
        for task in list(member.tasks):
            task.cancel()


def _client(member: Member) -> Client:
    assert member.client is not None
    return member.client


async def _pauses(member: Member) -> bool:
    """Pause a server; False if it is lost."""
    try:
        await _client(member).pause()
    except ServerLost:
        return False
    return True


async def _up_to(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, not longer. (`asyncio.wait_for` may lose a cancellation that comes with the event.)"""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _refused(member: Member, error: ServerLost) -> PoolFailed:
    return PoolFailed(f"{member.name} does not take the weights: {error}")


def _absent() -> PoolFailed:
    return PoolFailed(f"no server of the pool was there for {ABSENT_S:.0f} s; see their logs")
