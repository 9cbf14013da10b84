"""One server of the pool over HTTP: vLLM's endpoints for token ids in and out, and for weights."""

import math
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec

CONNECT_S = 10.0
# An idle connection is kept shorter than by the server (5 s): one that the server closes would look like its death.
KEEP_S = 2.0
NO_NUMBER = -9999.0
HEALTH_S = 30.0  # a server with all cores busy answers late


class ServerLost(Exception):
    """The server does not answer, or broke while answering; the request can be sent to another."""


class _Token(msgspec.Struct):
    logprob: float


class _Tokens(msgspec.Struct):
    content: list[_Token]


class _Span(msgspec.Struct):
    version: str
    start: int
    end: int


class _Choice(msgspec.Struct):
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: _Tokens | None = None
    weight_versions: list[_Span] | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice]
    prompt_logprobs: list[dict[int, _Token] | None] | None = None


class Completion(msgspec.Struct):
    """What a server sampled."""

    ids: list[int]
    logprobs: list[float]
    finish_reason: str | None
    stop_reason: int | str | None
    versions: list[tuple[str, int]]  # of the weights, and how many tokens they sampled, in order


class Client:
    """Asks one server. Every method raises ServerLost, or RuntimeError with the server's objection."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self.url = url
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._decoder = msgspec.json.Decoder(_Reply)
        self._encoder = msgspec.json.Encoder()

    async def generate(self, ids: Sequence[int], sampling: dict[str, Any], salt: str) -> Completion:
        """Sample after `ids`; only requests of one `salt` share prefixes."""
        body = {"token_ids": ids, "sampling_params": sampling, "cache_salt": salt}
        reply = self._decoder.decode(await self._ask("/inference/v1/generate", body))
        choice = reply.choices[0]
        if choice.finish_reason == "abort":
            raise ServerLost(f"{self.url}: the server aborted the request")
        assert choice.logprobs is not None
        return Completion(
            choice.token_ids,
            [_number(token) for token in choice.logprobs.content],
            choice.finish_reason,
            choice.stop_reason,
            [(span.version, span.end - span.start) for span in choice.weight_versions or ()],
        )

    async def score(self, ids: Sequence[int]) -> list[float]:
        """Log-prob of every token given those before it (0.0 for the first), at temperature 1."""
        sampling = {"temperature": 1.0, "max_tokens": 1, "prompt_logprobs": 0}
        body = {"token_ids": ids, "sampling_params": sampling}
        reply = self._decoder.decode(await self._ask("/inference/v1/generate", body))
        assert reply.prompt_logprobs is not None
        found = [0.0]
        for entry, token in zip(reply.prompt_logprobs[1:], ids[1:], strict=True):
            assert entry is not None
            found.append(_number(entry[token]))
        return found

    async def is_healthy(self) -> bool:
        """Whether the server and its engine answer. ValueError if it rejects the token."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_S)
        try:
            async with self._session.get(
                f"{self.url}/health", headers=self._headers, timeout=timeout
            ) as reply:
                if reply.status == 401:
                    raise ValueError(
                        f"{self.url}: the server rejects the token that generation.pool.key_variable names"
                    )
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def take_weights(self, paths: Sequence[str], version: str) -> None:
        """Load safetensors files between two steps; running requests wait meanwhile and continue."""
        await self.pause()
        await self._call("begin_weights")
        for path in paths:
            await self._call("take_weights", path=path)
        await self._call("finish_weights")
        await self.name_weights(version)
        await self.resume()

    async def name_weights(self, version: str) -> None:
        """Name the held weights; the server labels sampled tokens with that name."""
        await self._ask("/update_weight_version", {"new_version": version})

    async def pause(self) -> None:
        """Sample nothing until `resume`; running requests are kept."""
        await self._ask("/pause?mode=keep")

    async def resume(self) -> None:
        """Continue sampling."""
        await self._ask("/resume")

    async def num_workers(self) -> int:
        """GPUs of this server."""
        answer = await self._ask("/get_world_size", method="GET")
        return msgspec.json.decode(answer, type=dict[str, int])["world_size"]

    async def join_group(self, group: dict[str, Any]) -> None:
        """Join a group for weights (vLLM's `init_info`), and leave the one before."""
        await self._ask("/shutdown_weight_transfer_engine")
        await self._ask("/init_weight_transfer_engine", {"init_info": group})

    async def start_transfer(self) -> None:
        """Prepare to receive weights from the group."""
        await self._ask("/start_weight_update")

    async def receive(self, described: dict[str, Any]) -> None:
        """Receive tensors of these names, types and shapes."""
        await self._ask("/update_weights", {"update_info": described})

    async def finish_transfer(self, version: str) -> None:
        """Use the received weights, under this name."""
        await self._ask("/finish_weight_update", {"weight_version": version})

    async def digests(self) -> dict[str, str]:
        """A digest of every tensor that the server holds, by worker and name."""
        answer = msgspec.json.decode(await self._call("weight_digests"), type=dict[str, list[dict[str, str]]])
        return {name: value for held in answer["results"] for name, value in held.items()}

    async def _call(self, method: str, **arguments: str) -> bytes:
        """Call a method of `PoolWorker` in every worker."""
        return await self._ask("/collective_rpc", {"method": method, "kwargs": arguments})

    async def _ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> bytes:
        data = self._encoder.encode(body) if body is not None else None
        try:
            asked = self._session.request(method, self.url + path, data=data, headers=self._headers)
            async with asked as reply:
                answer = await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerLost(f"{self.url}: {type(error).__name__}: {error}") from None
        if reply.status >= 500:
            raise ServerLost(f"{self.url}{path}: {reply.status}: {_shown(answer)}")
        if reply.status >= 400:
            raise RuntimeError(f"{self.url}{path}: {reply.status}: {_shown(answer)}")
        return answer


def open_session() -> aiohttp.ClientSession:
    """A session for all servers: any number of connections, and no limit on how long a request samples."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_S), timeout=timeout
    )


def _number(token: _Token) -> float:
    """Its log-prob; the server writes -9999 for NaN."""
    return token.logprob if token.logprob > NO_NUMBER else math.nan


def _shown(answer: bytes) -> str:
    return " ".join(answer.decode(errors="replace").split())[:400]
