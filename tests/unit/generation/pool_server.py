"""A server of the pool in the test's process. The seed determines its tokens."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

TOKEN = "a token of the tests"


def tokens_of(seed: int, count: int) -> list[int]:
    """The tokens that every server samples for a seed."""
    return [(seed * 31 + place * 7) % 97 for place in range(count)]


class FakeServer:
    """One server. It can delay its answers and fail."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []  # bodies, in order
        self.calls: list[str] = []  # paths of other requests
        self.most_at_once = 0
        self.weights: dict[str, str] = {"worker 0: a": "1"}
        self.version = "default"
        self.status = 200  # of generate
        self.open = threading.Event()  # set: answers go out
        self.open.set()
        self._running = 0
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self, port: int = 0) -> str:
        """Listen; the URL."""
        if not self._thread.is_alive():
            self._thread.start()
        self.url = self._do(self._listen(port))
        return self.url

    def die(self) -> None:
        """Break all connections and stop listening."""
        assert self._runner is not None
        self._do(self._break())

    def close(self) -> None:
        """End the server and its thread."""
        self.open.set()
        self._do(self._break())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, port: int) -> str:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/health", self._health)
        app.router.add_post("/inference/v1/generate", self._generate)
        app.router.add_post("/collective_rpc", self._call)
        app.router.add_post("/update_weight_version", self._name)
        for path in ("/pause", "/resume"):
            app.router.add_post(path, self._note)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        assert site._server is not None
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def _break(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _note(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        return web.Response()

    async def _name(self, request: web.Request) -> web.Response:
        self.version = (await request.json())["new_version"]
        return web.Response()

    async def _call(self, request: web.Request) -> web.Response:
        method = (await request.json())["method"]
        self.calls.append(method)
        return web.json_response({"results": [self.weights] if method == "weight_digests" else [None]})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        if self.status != 200:
            return web.Response(status=self.status, text="it does not like this")
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            while not self.open.is_set():
                await asyncio.sleep(0.001)
        finally:
            self._running -= 1
        sampling = body["sampling_params"]
        ids = tokens_of(sampling.get("seed", 0), sampling["max_tokens"])
        logprobs = [-0.5] * len(ids) if 13 not in ids else [-9999.0] * len(ids)
        scored = [None] + [{str(i): {"logprob": -0.25}} for i in body["token_ids"][1:]]
        choice = {
            "token_ids": ids,
            "finish_reason": "length",
            "stop_reason": None,
            "logprobs": {"content": [{"logprob": value, "rank": 1} for value in logprobs]},
            "weight_versions": [{"version": self.version, "start": 0, "end": len(ids)}],
        }
        return web.json_response({"choices": [choice], "prompt_logprobs": scored})


@contextmanager
def servers(count: int) -> Iterator[list[FakeServer]]:
    """Running ones."""
    fakes = [FakeServer() for _ in range(count)]
    for server in fakes:
        server.start()
    try:
        yield fakes
    finally:
        for server in fakes:
            server.close()
