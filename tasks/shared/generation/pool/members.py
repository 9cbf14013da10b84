"""The members of a pool: sends requests to the server with the least work, and restarts dead servers.

Everything here runs in one event loop, in a thread of its own (`generator.py`). A member is asked while it is ready,
that is, it answers and holds the weights that were pushed last. The requests of a member that died are sent to another;
what is sampled does not depend on the server, because each request carries its seed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import compress
from queue import SimpleQueue
from typing import Any, TypeVar

import aiohttp

from tasks.shared.generation.pool.client import Client, Completion, ServerLost, open_session
from tasks.shared.generation.pool.hosts import AnnouncedServer
from tasks.shared.generation.pool.server import PoolFailed, ServerProcess
from tasks.shared.generation.protocol import Piece

START_S = 1800.0  # a large model from a slow disk
POLL_S = 0.2
WATCH_S = 1.0
MOST_SILENT = 3  # health checks in a row without an answer, 30 s each, after which a server counts as dead
ABSENT_S = 600.0  # how long requests wait while no server is ready
ATTEMPTS = 6  # times that one request is sent
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Ask:
    """One piece to sample."""

    request_id: str
    ids: list[int]
    sampling: dict[str, Any]
    arrived: SimpleQueue[Piece | BaseException]  # where its piece goes
    member: "Member | None" = None  # that holds its prefix
    attempts: int = 0
    task: "asyncio.Task[None] | None" = None  # of the last attempt
    unwanted: bool = False  # withdrawn by its caller


@dataclass(slots=True)
class Member:
    """One server."""

    name: str
    server: ServerProcess | AnnouncedServer | None  # None: it runs already, and is never restarted
    url: str = ""
    client: Client = field(init=False, repr=False)  # once it has answered
    ready: bool = False  # answers, and holds the weights that were pushed last
    was_ready: bool = False
    waits_for_push: bool = False  # answers, but no files hold the current weights
    # set when a request got no answer: no other is sent until a health check succeeds
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # one a request

    @property
    def can_be_asked(self) -> bool:
        """Whether requests may be sent to it."""
        return self.ready and not self.doubted.is_set()


class Pool:
    """The servers and the requests that wait for them or run on them."""

    def __init__(
        self,
        members: Sequence[Member],
        token: str,
        *,
        version: str,
        paths: Sequence[str],
        slots: int,
        take: Callable[[Ask, Completion], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """`version` names the weights of the checkpoint, which are in the safetensors files `paths`.

        `slots`: requests that a server decodes side by side; `take` receives each completion, `fail` a fatal error.
        """
        self.members = list(members)
        self.version = version  # of the weights that every ready member holds
        self._paths: tuple[str, ...] | None = tuple(paths)  # files with these weights, if there are any
        self._pushed = False  # whether they differ from those that servers start with
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

    async def start(self) -> None:
        """Start every server and supervise it from now on."""
        self._session = open_session()
        self._keepers = [asyncio.create_task(self._keep(member)) for member in self.members]
        self._keepers.append(asyncio.create_task(self._watch_all()))

    async def close(self) -> None:
        """Stop supervising. Whoever started the servers ends them."""
        self._closed = True
        tasks = [*self._keepers, *(task for member in self.members for task in member.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def put(self, ask: Ask) -> None:
        """Send a request as soon as a server is free; at once if the server that holds its prefix is there."""
        if ask.member is not None and ask.member.can_be_asked:
            self._start(ask, ask.member)
            return
        if ask.member is not None:  # a started trajectory goes before new ones
            self._waiting.appendleft(ask)
        else:
            self._waiting.append(ask)
        self._dispatch()

    def forget(self, ask: Ask) -> None:
        """Withdraw a request; its server sees the connection close."""
        ask.unwanted = True
        if ask in self._waiting:
            self._waiting.remove(ask)
        elif ask.task is not None:
            ask.task.cancel()

    async def all_started(self) -> None:
        """Wait until every server has been ready once and one is ready. Raises PoolFailed if none comes back."""
        while not all(member.was_ready for member in self.members):
            self._changed.clear()
            await self._changed.wait()
        await self.first_ready(0)

    async def first_ready(self, number: int) -> Member:
        """The ready member at `number` in turn. Raises PoolFailed if none becomes ready."""
        deadline = time.monotonic() + ABSENT_S
        while not (ready := [member for member in self.members if member.ready]):
            self._changed.clear()
            await _up_to(WATCH_S, self._changed)
            if time.monotonic() > deadline:
                raise _absent()
        return ready[number % len(ready)]

    async def push(self, paths: Sequence[str], version: str) -> None:
        """Give every ready member these weights; the others load the files, which stay until the next push, later."""
        async with self._weights:
            self._paths, self.version, self._pushed = tuple(paths), version, True
            ready = [member for member in self.members if member.ready]
            await asyncio.gather(*(self._give(member) for member in ready))

    async def pause_for_push(self) -> list[Member]:
        """Begin a push without files, which `finish_push` ends; the members that answer wait for it.

        Members that start later wait for the next push.
        """
        await self._weights.acquire()
        self._paths, self._pushed = None, True
        there = [member for member in self.members if member.ready or member.waits_for_push]
        return list(compress(there, await asyncio.gather(*map(self._pauses, there))))

    async def _pauses(self, member: Member) -> bool:
        """Pause a server; False if it is lost."""
        try:
            await member.client.pause()
        except ServerLost:
            member.waits_for_push = False
            self._lose(member)
            self._changed.set()
            return False
        return True

    async def each(
        self, members: Sequence[Member], call: Callable[[Client], Awaitable[Result]]
    ) -> list[Result]:
        """Call the members' clients side by side; the results in their order."""
        return list(await asyncio.gather(*(call(member.client) for member in members)))

    async def finish_push(self, members: Sequence[Member], version: str) -> None:
        """Let them continue with the weights that they have received."""
        await self.each(members, lambda client: client.finish_transfer(version))
        self.version = version
        for member in members:
            await member.client.resume()
            member.ready, member.waits_for_push = True, False
        self._weights.release()
        self._changed.set()
        self._dispatch()

    async def digests(self) -> dict[str, dict[str, str]]:
        """Digests of the tensors that each ready member holds, by its name."""
        async with self._weights:
            ready = [member for member in self.members if member.ready]
            found = await self.each(ready, Client.digests)
        return {member.name: digests for member, digests in zip(ready, found, strict=True)}

    async def _give(self, member: Member) -> None:
        """Give a member the weights of `version`. It leaves the pool if it is lost meanwhile."""
        assert self._paths is not None
        try:
            await member.client.take_weights(self._paths, self.version)
        except ServerLost as error:
            if await member.client.is_healthy():
                raise _refused(member, error) from None
            self._lose(member)

    def _dispatch(self) -> None:
        """Send waiting requests to the servers with the least work, as far as they have room."""
        while self._waiting and not self._closed:
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
            completion = await member.client.generate(ask.ids, ask.sampling, salt=self.version)
            self._take(ask, completion)
        except ServerLost as error:
            member.doubted.set()
            self._again(ask, str(error))
        except Exception as error:  # noqa: BLE001  the caller's step raises it
            self._fail(error)

    def _again(self, ask: Ask, reason: str) -> None:
        """Send a request again, before all that have not begun."""
        if ask.unwanted:
            return
        if ask.attempts == ATTEMPTS:
            self._fail(
                PoolFailed(f"request {ask.request_id} failed {ATTEMPTS} times, the last time: {reason}")
            )
        else:
            ask.member = None
            self._waiting.appendleft(ask)

    async def _keep(self, member: Member) -> None:
        """Supervise one member as long as the pool lives."""
        try:
            while True:
                await self._bring_up(member)
                await self._watch(member)
                self._lose(member)
        except Exception as error:  # noqa: BLE001  the caller's step raises it
            self._fail(error)

    async def _bring_up(self, member: Member) -> None:
        """Start the member if it is ours, wait until it answers, give it the current weights."""
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
        """Give a member that answers the current weights; if no files hold them, wait for the next push."""
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
        """A client of the member, once it answers; a lost member may come back at any time."""
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
        """Return once the member has died or stopped answering."""
        silent = 0
        while silent < MOST_SILENT and member.ready:
            await _up_to(WATCH_S, member.doubted)
            if member.server is not None and member.server.ended():
                return
            if await member.client.is_healthy():
                silent = 0
                member.doubted.clear()
                self._dispatch()
            else:
                silent += 1
                await asyncio.sleep(POLL_S)

    async def _watch_all(self) -> None:
        """Fail if requests wait and no server comes back."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            if any(member.ready for member in self.members) or not self._waiting:
                last = time.monotonic()
            elif time.monotonic() - last > ABSENT_S and any(member.was_ready for member in self.members):
                return self._fail(_absent())

    def _lose(self, member: Member) -> None:
        """Take a member out and send its requests to others."""
        if not member.ready:
            return
        member.ready = False
        self._changed.set()
        for task in list(member.tasks):
            task.cancel()


async def _up_to(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event at most so long. (`asyncio.wait_for` may lose a cancellation that comes with the event.)"""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _refused(member: Member, error: ServerLost) -> PoolFailed:
    return PoolFailed(f"{member.name} does not take the weights: {error}")


def _absent() -> PoolFailed:
    return PoolFailed(f"no server of the pool answered for {ABSENT_S:.0f} s; see their logs")
