"""`tirflow serve`: an OpenAI-compatible server over one resident checkpoint, whose code runs while it answers.

Requests of all clients go side by side through the loop of evaluation; sample i of a request has the seed `seed + i`,
so that an evaluation's seeds give its samples. A request that stops at the dialect's own stop string runs its code
itself: its messages are taken as they are, and nothing is run here.
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
from tasks.serve.schemas import ApiError, Asked, ChatRequest, CompletionRequest
from tasks.shared.generation.interleave import RolloutRequest
from tasks.shared.generation.protocol import Sampling
from tasks.shared.traces.trajectory import FinishReason

PAGE = Path(__file__).with_name("page")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SEEDS = 2**63
LOOK_S = 1.0  # between two looks whether a client is still there


def make_app(resident: Resident, request: ServeRequest, key: str) -> FastAPI:
    """The application; `key`: what clients must send, "" for nothing."""
    app = FastAPI(title="tirflow", docs_url=None, redoc_url=None, openapi_url=None)
    service = Service(resident, request)
    app.add_middleware(Gate, key=key, max_body=request.serve.max_body_kib * 1024)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, http: Request) -> Response:
        """A conversation."""
        return await service.chat(asked, http)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, http: Request) -> Response:
        """Prompts as they are."""
        return await service.complete(asked, http)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [service.model]}

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        """The one model by its name."""
        service.require_model(name)
        return service.model

    @app.get("/health")
    def health() -> Response:
        """200 while it answers."""
        failed = resident.failed
        body = {"status": "ok"} if failed is None else {"status": "failed", "reason": str(failed)}
        return JSONResponse(body, 200 if failed is None else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/{name}")
    @app.get("/")
    def page(name: str = "page.html") -> Response:
        """The page to try it, its style and script."""
        if name not in ("page.html", "page.css", "page.js"):
            raise ApiError(404, f"there is no /{name}")
        return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY})

    @app.exception_handler(ApiError)
    async def error_response(http: Request, error: ApiError) -> Response:
        headers = {"Retry-After": "1"} if error.status == 429 else {}
        return service.counted(http, JSONResponse(error.body, error.status, headers))

    @app.exception_handler(RequestValidationError)
    async def mistaken(http: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        said = str(first["msg"]).removeprefix("Value error, ")
        return await error_response(http, ApiError(400, f"{param}: {said}" if param else said, param=param))

    @app.exception_handler(HTTPException)
    async def missing(http: Request, error: HTTPException) -> Response:
        return await error_response(
            http, ApiError(error.status_code, f"{error.detail}: {http.method} {http.url.path}")
        )

    @app.exception_handler(Exception)
    async def failed(http: Request, error: Exception) -> Response:
        return await error_response(
            http, ApiError(500, "the server failed; see its log", kind="server_error")
        )

    return app


class Service:
    """What the routes do."""

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
        """ApiError for another model than the one that is served."""
        if name != self._name:
            said = f"model '{name}' is not served here; this is '{self._name}'"
            raise ApiError(404, said, param="model", code="model_not_found")

    def counted(self, http: Request, response: Response) -> Response:
        """The response, counted."""
        route = http.scope.get("route")
        self.metrics.requests.labels(getattr(route, "path", "other"), str(response.status_code)).inc()
        return response

    async def chat(self, asked: ChatRequest, http: Request) -> Response:
        """Answer a conversation."""
        self.require_model(asked.model)
        raw = self._is_raw(asked)
        try:
            messages = [message.message for message in asked.messages]
            prompt = self._resident.prompts.of(messages, raw, asked.continue_final_message)
        except ValueError as error:
            raise ApiError(400, str(error), param="messages") from None
        return await self._answer(asked, [prompt], Form(True, secrets.token_hex(12), asked.model), http)

    async def complete(self, asked: CompletionRequest, http: Request) -> Response:
        """Continue prompts."""
        self.require_model(asked.model)
        try:
            prompts = [self._resident.prompts.of_text(prompt) for prompt in asked.prompts]
            if not prompts:
                raise ValueError("prompt: an empty list asks for nothing")
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from None
        return await self._answer(asked, prompts, Form(False, secrets.token_hex(12), asked.model), http)

    def _is_raw(self, asked: Asked) -> bool:
        """Whether the client runs the code itself."""
        return asked.interpreter == "none" or self._resident.policy.dialect.stop in asked.stop

    async def _answer(
        self, asked: Asked, prompts: Sequence[tuple[int, ...]], form: Form, http: Request
    ) -> Response:
        requests = self._requests(asked, prompts)
        in_text = (asked.interpreter or self._limits.interpreter) != "field"
        decode, stops = self._resident.decode, tuple(asked.stop)
        replies = [Reply(Parts(decode, stops), in_text, tells_all=asked.return_trajectory) for _ in requests]
        prompt_tokens = sum(map(len, prompts))
        if asked.stream:
            chunks = self._stream(asked, requests, replies, form, prompt_tokens)
            await anext(chunks)  # refusals are answers of their own, not events in a stream
            return self.counted(http, StreamingResponse(chunks, media_type="text/event-stream"))
        work = asyncio.create_task(self._collect(requests, replies))
        try:
            while not (await asyncio.wait({work}, timeout=LOOK_S))[0]:
                if await http.is_disconnected():
                    raise ApiError(499, "the client has gone")
            work.result()
        finally:
            work.cancel()
        self.metrics.count(replies, prompt_tokens)
        return self.counted(http, JSONResponse(form.whole(replies, prompt_tokens)))

    def _requests(self, asked: Asked, prompts: Sequence[tuple[int, ...]]) -> list[RolloutRequest]:
        """A request a sample. ApiError: more than one request may have, or no room for a response."""
        if len(prompts) * asked.n > self._limits.max_samples:
            said = f"n = {asked.n} for {len(prompts)} prompts: at most {self._limits.max_samples} samples a request"
            raise ApiError(400, said, param="n")
        policy, name = self._resident.policy, secrets.token_hex(8)
        sampling = Sampling(
            policy.sampling.temperature if asked.temperature is None else asked.temperature,
            policy.sampling.top_p if asked.top_p is None else asked.top_p,
        )
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        requests = []
        for place, prompt in enumerate(prompts):
            room = self._resident.max_positions - len(prompt)
            if room < 1:
                raise ApiError(
                    400, f"the prompt leaves no room of the model's {len(prompt) + room} positions"
                )
            budget = min(room, asked.max_tokens or policy.max_response_tokens)
            requests += [
                RolloutRequest(
                    name,
                    sample,
                    prompt,
                    (seed + sample) % SEEDS,
                    sampling,
                    budget,
                    0 if self._is_raw(asked) else None,
                )
                for sample in range(place * asked.n, (place + 1) * asked.n)
            ]
        return requests

    async def _collect(self, requests: Sequence[RolloutRequest], replies: Sequence[Reply]) -> None:
        """Fill the replies."""
        with self._admitted(len(requests)):
            async for number, grown in self._sampled(requests, replies, follows=bool(replies[0].parts.stops)):
                for _ in replies[number].parts.take(grown):
                    pass

    async def _stream(
        self,
        asked: Asked,
        requests: Sequence[RolloutRequest],
        replies: Sequence[Reply],
        form: Form,
        prompt_tokens: int,
    ) -> AsyncIterator[str]:
        """Server-sent events; the first one is empty and comes once the request is admitted."""
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
            if asked.stream_options.include_usage:
                yield _event(form.last(replies, prompt_tokens))
            yield "data: [DONE]\n\n"
        self.metrics.count(replies, prompt_tokens)

    @contextmanager
    def _admitted(self, samples: int) -> Iterator[None]:
        """Count samples while they are alive. ApiError where there is no room for more."""
        if self._resident.failed is not None:
            raise ApiError(503, f"the engine has stopped: {self._resident.failed}", kind="server_error")
        if self._alive + samples > self._most_alive:
            said = (
                f"{self._alive} samples are under way, of at most {self._most_alive}; ask again in a moment"
            )
            raise ApiError(429, said, kind="rate_limit_error", code="queue_full")
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
        """What grows, by number of the sample, until all replies have ended; whatever ends this ends the samples.

        ApiError: the sandbox or the engine failed, or time is up.
        """
        heard: asyncio.Queue[tuple[int, Grown | Exception]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number, request in enumerate(requests):

            def listen(said: Grown | Exception, number: int = number) -> None:
                loop.call_soon_threadsafe(heard.put_nowait, (number, said))

            self._resident.ask(request, listen, follows)
        deadline = loop.time() + self._limits.max_seconds
        alive = set(range(len(requests)))
        try:
            while alive:
                try:
                    async with asyncio.timeout_at(deadline):
                        number, said = await heard.get()
                except TimeoutError:
                    raise ApiError(
                        504,
                        f"no whole answer within {self._limits.max_seconds:g} s",
                        kind="server_error",
                        code="timeout",
                    ) from None
                if number not in alive:
                    continue
                if isinstance(said, Exception):
                    raise ApiError(503, f"the engine has stopped: {said}", kind="server_error") from None
                replies[number].trajectory = said.trajectory
                if said.trajectory is not None and said.trajectory.finish is FinishReason.SANDBOX_FAILURE:
                    raise ApiError(
                        503, "the sandbox failed under a program", kind="server_error", code="sandbox"
                    )
                yield number, said
                if said.trajectory is not None:
                    alive.discard(number)
                elif replies[number].ended:
                    alive.discard(number)
                    self._resident.drop(requests[number].id)
        finally:
            for number in alive:
                self._resident.drop(requests[number].id)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
