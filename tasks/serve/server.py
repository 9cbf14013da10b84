"""`tirflow serve`: an OpenAI-compatible server for one resident checkpoint, with code that runs while it answers.

The loop of evaluation samples the requests of all clients side by side. Sample i of a request has the seed `seed + i`,
so that an evaluation's seeds give its samples. A client that stops at the dialect's own stop string runs the code
itself: the server then takes its messages as they are and runs nothing.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from tasks.serve.gate import Gate
from tasks.serve.metrics import Metrics
from tasks.serve.parts import Grown, Parts
from tasks.serve.replies import Form, Reply
from tasks.serve.request import ServeRequest
from tasks.serve.resident import Resident
from tasks.serve.schemas import ApiError, ChatRequest, CommonRequest, CompletionRequest
from tasks.shared.generation.interleave import RolloutRequest
from tasks.shared.generation.protocol import Sampling
from tasks.shared.traces.trajectory import FinishReason

PAGE = Path(__file__).with_name("page")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SEEDS = 2**63
GREEDY = 1e-6  # a temperature up to this is 0: logits over a tiny one overflow


def make_app(resident: Resident, request: ServeRequest, key: str) -> FastAPI:
    """Return the application. Clients must send `key`, unless it is ""."""
    app = FastAPI(title="tirflow", docs_url=None, redoc_url=None, openapi_url=None)
    service = Service(resident, request)
    app.add_middleware(Gate, key=key, max_body=request.serve.max_body_kib * 1024)
    app.post("/v1/chat/completions")(service.chat)
    app.post("/v1/completions")(service.complete)
    app.get("/health")(service.health)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [service.model]}

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        """Describe the one model."""
        service.require_model(name)
        return service.model

    @app.get("/metrics")
    def metrics() -> Response:
        """Return the metrics in Prometheus's format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/{name}")
    @app.get("/")
    def page(name: str = "page.html") -> Response:
        """Return the page to try the checkpoint, its style or its script."""
        if name not in ("page.html", "page.css", "page.js"):
            raise ApiError(404, f"there is no /{name}")
        return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY})

    @app.exception_handler(ApiError)
    async def api_error(http: Request, error: ApiError) -> Response:
        headers = {"Retry-After": "1"} if error.status == 429 else {}
        return service.counted(http, JSONResponse(error.body, error.status, headers))

    @app.exception_handler(RequestValidationError)
    async def invalid_request(http: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = () if first["type"] == "json_invalid" else first["loc"][1:]
        param = ".".join(str(part) for part in where) or None
        message = str(first["msg"]).removeprefix("Value error, ")
        return await api_error(http, ApiError(400, f"{param}: {message}" if param else message, param=param))

    @app.exception_handler(HTTPException)
    async def http_error(http: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: {http.method} {http.url.path}"
        return await api_error(http, ApiError(error.status_code, message))

    @app.exception_handler(Exception)
    async def server_error(http: Request, error: Exception) -> Response:
        return await api_error(http, ApiError(500, "the server failed; see its log"))

    return app


class Service:
    """Answers the requests of all clients."""

    def __init__(self, resident: Resident, request: ServeRequest) -> None:
        generation = request.config.generation
        servers = max(1, len(generation.pool.addresses) or generation.pool.servers)
        self._resident = resident
        self._name = request.name
        self._limits = request.serve
        self._most_alive = generation.max_sequences * servers + request.serve.max_queue
        self._alive = 0
        self.metrics = Metrics(resident)
        self.model = {
            "id": request.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "tirflow",
            "max_model_len": generation.max_prompt_tokens + generation.max_response_tokens,
        }

    def require_model(self, name: str) -> None:
        """Raise ApiError for another model than the one that is served."""
        if name != self._name:
            message = f"model {name!r} is not served here; this is '{self._name}'"
            raise ApiError(404, message, param="model", code="model_not_found")

    def counted(self, http: Request, response: Response) -> Response:
        """Count a response and return it."""
        route = http.scope.get("route")
        self.metrics.requests.labels(getattr(route, "path", "other"), str(response.status_code)).inc()
        return response

    def health(self) -> Response:
        """Return 200 while the engine runs, else 503."""
        failed = self._resident.failed
        body = {"status": "ok"} if failed is None else {"status": "failed", "reason": str(failed)}
        return JSONResponse(body, 200 if failed is None else 503)

    async def chat(self, body: ChatRequest, http: Request) -> Response:
        """Answer a conversation."""
        self.require_model(body.model)
        try:
            messages = [message.message for message in body.messages]
            prompt = self._resident.prompts.of(messages, self._is_raw(body), body.continue_final_message)
        except ValueError as error:
            raise ApiError(400, str(error), param="messages") from None
        return await self._answer(body, [prompt], Form(True, body.model), http)

    async def complete(self, body: CompletionRequest, http: Request) -> Response:
        """Continue prompts."""
        self.require_model(body.model)
        try:
            prompts = [self._resident.prompts.of_text(prompt) for prompt in body.prompts]
            if not prompts:
                raise ValueError("prompt: the list is empty")
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from None
        return await self._answer(body, prompts, Form(False, body.model), http)

    def _is_raw(self, body: CommonRequest) -> bool:
        """Whether the client runs the code itself."""
        return body.interpreter == "none" or self._resident.policy.dialect.stop in body.stop

    async def _answer(
        self, body: CommonRequest, prompts: Sequence[tuple[int, ...]], form: Form, http: Request
    ) -> Response:
        requests = self._requests(body, prompts)
        in_text = (body.interpreter or self._limits.interpreter) != "field"
        decode, stops = self._resident.decode, tuple(body.stop)
        replies = [
            Reply(Parts(decode, stops), in_text, with_trajectory=body.return_trajectory) for _ in requests
        ]
        prompt_tokens = sum(map(len, prompts))
        if body.stream:
            chunks = self._stream(body, requests, replies, form, prompt_tokens)
            await anext(chunks)  # a refusal is a response of its own, not an event in a stream
            return self.counted(http, StreamingResponse(chunks, media_type="text/event-stream"))
        work = asyncio.create_task(self._collect(requests, replies))
        # The body is read: what the connection says next is that the client has gone.
        gone = asyncio.ensure_future(http.receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ApiError(499, "the client has gone")
            work.result()
        finally:
            work.cancel()
            gone.cancel()
        self.metrics.count(replies, prompt_tokens)
        return self.counted(http, JSONResponse(form.whole(replies, prompt_tokens)))

    def _requests(self, body: CommonRequest, prompts: Sequence[tuple[int, ...]]) -> list[RolloutRequest]:
        """Make a rollout request for each sample. Raises ApiError for too many samples, or no room for a response."""
        limit = self._limits.max_samples
        if len(prompts) * body.n > limit:
            message = f"n = {body.n} for {len(prompts)} prompts: at most {limit} samples a request"
            raise ApiError(400, message, param="n")
        policy, name = self._resident.policy, secrets.token_hex(8)
        temperature = policy.sampling.temperature if body.temperature is None else body.temperature
        sampling = Sampling(
            temperature if temperature > GREEDY else 0.0,
            policy.sampling.top_p if body.top_p is None else body.top_p,
        )
        seed = secrets.randbits(62) if body.seed is None else body.seed
        max_calls = 0 if self._is_raw(body) else None
        requests = []
        for place, prompt in enumerate(prompts):
            positions = self._resident.max_positions
            if len(prompt) >= positions:
                raise ApiError(400, f"the prompt leaves no room of the model's {positions} positions")
            budget = min(positions - len(prompt), body.max_tokens or policy.max_response_tokens)
            requests += [
                RolloutRequest(name, i, prompt, (seed + i) % SEEDS, sampling, budget, max_calls)
                for i in range(place * body.n, (place + 1) * body.n)
            ]
        return requests

    async def _collect(self, requests: Sequence[RolloutRequest], replies: Sequence[Reply]) -> None:
        """Sample all replies to their end."""
        with self._admitted(len(requests)):
            async for number, grown in self._sampled(requests, replies, follows=bool(replies[0].parts.stops)):
                for _ in replies[number].parts.take(grown):
                    pass

    async def _stream(
        self,
        body: CommonRequest,
        requests: Sequence[RolloutRequest],
        replies: Sequence[Reply],
        form: Form,
        prompt_tokens: int,
    ) -> AsyncIterator[str]:
        """Yield server-sent events. The first is empty and comes once the request is admitted."""
        with self._admitted(len(requests)):
            yield ""
            for number in range(len(requests)):
                yield _event(form.chunk(number, {"role": "assistant", "content": ""}))
            try:
                async for number, grown in self._sampled(requests, replies, follows=True):
                    reply = replies[number]
                    for part in reply.parts.take(grown):
                        yield _event(form.chunk(number, reply.delta(part)))
                    if reply.ended:
                        last = {"answer": reply.answer} if reply.answer is not None else {}
                        yield _event(form.chunk(number, last, reply.finish))
            except ApiError as error:
                yield _event(error.body)
                return
            if body.stream_options.include_usage:
                yield _event(form.last(replies, prompt_tokens))
            yield "data: [DONE]\n\n"
        self.metrics.count(replies, prompt_tokens)

    @contextmanager
    def _admitted(self, samples: int) -> Iterator[None]:
        """Count samples while they are alive. Raises ApiError if the engine has stopped or the queue is full."""
        if self._resident.failed is not None:
            raise ApiError(503, f"the engine has stopped: {self._resident.failed}")
        if self._alive + samples > self._most_alive:
            message = (
                f"{self._alive} samples are under way, of at most {self._most_alive}; ask again in a moment"
            )
            raise ApiError(429, message, code="queue_full")
        self._alive += samples
        self.metrics.alive.set(self._alive)
        try:
            with self.metrics.seconds.time():
                yield
        finally:
            self._alive -= samples
            self.metrics.alive.set(self._alive)

    async def _sampled(
        self, requests: Sequence[RolloutRequest], replies: Sequence[Reply], follows: bool
    ) -> AsyncIterator[tuple[int, Grown]]:
        """Yield (sample, growth) until all replies have ended. Closing the generator drops samples that have not.

        Raises ApiError if the sandbox or the engine fails, or if time is up.
        """
        growth: asyncio.Queue[tuple[int, Grown | Exception]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number, request in enumerate(requests):

            def listen(grown: Grown | Exception, number: int = number) -> None:
                loop.call_soon_threadsafe(growth.put_nowait, (number, grown))

            self._resident.ask(request, listen, follows)
        limit_s = self._limits.max_seconds
        deadline = loop.time() + limit_s
        alive = set(range(len(requests)))
        try:
            while alive:
                try:
                    async with asyncio.timeout_at(deadline):
                        number, grown = await growth.get()
                except TimeoutError:
                    raise ApiError(504, f"no whole answer within {limit_s:g} s", code="timeout") from None
                if number not in alive:
                    continue
                if isinstance(grown, Exception):
                    raise ApiError(503, f"the engine has stopped: {grown}") from None
                replies[number].trajectory = grown.trajectory
                if grown.trajectory is not None and grown.trajectory.finish is FinishReason.SANDBOX_FAILURE:
                    raise ApiError(503, "the sandbox failed under a program", code="sandbox")
                yield number, grown
                if grown.trajectory is not None:
                    alive.discard(number)
                elif replies[number].ended:
                    alive.discard(number)
                    self._resident.drop(requests[number].id)
        finally:
            for number in alive:
                self._resident.drop(requests[number].id)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
