"""Asks an OpenAI-compatible endpoint: paced, within a budget, with retries, and with every response kept.

The endpoint is not trusted: a body has a size limit and a deadline, and the key is removed from whatever is kept or
shown. A request that was in flight when the stage was killed is sent again with the same `Idempotency-Key`, so that an
endpoint that knows the header does not charge twice.
"""

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2
import openai
from pydantic_core import from_json, to_json
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from tasks.shared.config.endpoint import EndpointAccess
from tasks.shared.contract.environment import named_key
from tasks.shared.generation.endpoint.completion import Completion, Usage
from tasks.shared.generation.endpoint.limits import Budget, BudgetSpent, TokenBucket
from tasks.shared.generation.endpoint.responses import ResponseKey, ResponseLog

Job = TypeVar("Job")
Answer = TypeVar("Answer")
MAX_BODY_BYTES = 64 << 20
MAX_FAILED_BYTES = 64 << 10  # of an answer other than 2xx
SAID_CHARS = 300
AGAIN = frozenset({408, 409, 425, 429})  # and every 5xx
REFUSED = frozenset({401, 403, 404})  # wrong key, rights, address or model: every request would fail
MESSAGE_TOKENS = 128  # that a chat template adds at most to each message


class EndpointRefused(ValueError):
    """The endpoint will not serve this recipe; the message quotes it."""


@dataclass(eq=False, slots=True)
class AttemptFailed(Exception):
    """One attempt gave no usable response."""

    # "http_429", "timeout", "connection", "invalid_response", "error", "too_large", "other_model", "empty"
    kind: str
    said: str  # by the endpoint, in one line
    may_pass: bool  # a retry may succeed
    retry_after_s: float | None = None  # the wait that the endpoint asks for

    def __str__(self) -> str:
        return f"{self.kind}: {self.said}"


class EndpointClient:
    """Asks one endpoint, within one event loop. Close it."""

    def __init__(self, config: EndpointAccess, section: str, log: ResponseLog) -> None:
        """`section` of `config`, like `synthesize.teacher`. ValueError if the variable of its key is not set."""
        self._config = config
        self._section = section
        self._asker = asker = section.rpartition(".")[2]
        self._key = key = named_key(config.key_variable, f"{section}.key_variable")
        self._log = log
        self._requests = TokenBucket(config.requests_per_minute)
        self._tokens = TokenBucket(config.tokens_per_minute)
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=config.base_url,
            max_retries=0,
            timeout=config.timeout_s,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, event_hooks={"response": [_stop_at_failure]}
            ),
        )
        self.budget = Budget(config, log.spent(asker))
        self.num_asked = 0  # requests that the endpoint answered; the log answered the others
        self.failed_attempts: Counter[str] = Counter()

    async def aclose(self) -> None:
        """End its connections."""
        await self._client.close()

    async def ask(self, problem_id: str, sample: int, turn: int, payload: Mapping[str, Any]) -> Completion:
        """The answer to one request, from the log if it was answered before.

        Raises AttemptFailed after the last attempt, BudgetSpent before the first, EndpointRefused.
        """
        request = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:32]
        key = ResponseKey(self._asker, problem_id, sample, turn, request)
        kept = self._log.find(key)
        if kept is not None:
            return self._usable(Completion.model_validate_json(kept))
        most = _most(payload)
        await self.budget.reserve(most)
        used = Usage()
        try:
            body = await self._attempt_until_it_passes(key, payload)
            completion = Completion.model_validate_json(body)
            used = completion.usage or most  # the highest possible, if the endpoint does not report it
            await asyncio.to_thread(self._log.append, key, body, used)
            self.num_asked += 1
        finally:
            await self.budget.settle(most, used)
        self._tokens.charge(used.tokens)
        return self._usable(completion)

    async def _attempt_until_it_passes(self, key: ResponseKey, payload: Mapping[str, Any]) -> str:
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, AttemptFailed) and error.may_pass),
            stop=stop_after_attempt(self._config.max_attempts),
            wait=self._wait,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                await self._requests.take(1)
                await self._tokens.take(0)
                number = attempt.retry_state.attempt_number
                name = hashlib.sha256(f"{key}/{number}".encode()).hexdigest()[:32]
                try:
                    return await self._send(payload, {"Idempotency-Key": name})
                except AttemptFailed as failed:
                    self.failed_attempts[failed.kind] += 1
                    if failed.retry_after_s:
                        self._requests.pause(min(failed.retry_after_s, self._config.max_wait_s))
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _send(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> str:
        """One attempt: a body that reads as a completion. Raises AttemptFailed, EndpointRefused."""
        create = self._client.chat.completions.with_streaming_response.create
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._config.timeout_s),
                create(**payload, extra_headers=headers) as response,
            ):
                async for part in response.iter_bytes():
                    body += part
                    if len(body) > MAX_BODY_BYTES:
                        raise AttemptFailed("too_large", f"a body of over {MAX_BODY_BYTES} bytes", False)
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException):
            raise AttemptFailed("timeout", f"no response within {self._config.timeout_s:g} s", True) from None
        except _Failure as failure:
            raise self._status(failure) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise AttemptFailed("connection", self._said(str(error.__cause__ or error)), True) from None
        text = body.decode(errors="replace")
        try:
            text = to_json(self._without_key(from_json(text))).decode()  # the key may be spelled with escapes
            completion = Completion.model_validate_json(text)
        except ValueError:
            raise AttemptFailed("invalid_response", self._said(text), True) from None
        if completion.has_failed:
            raise AttemptFailed("error", self._said(text), True)
        return text

    def _without_key(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._without_key(name): self._without_key(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._without_key(inner) for inner in value]
        return value.replace(self._key, "***") if self._key and isinstance(value, str) else value

    def _status(self, failure: "_Failure") -> Exception:
        code = failure.status
        said = self._said(failure.text)
        if 300 <= code < 400:
            return EndpointRefused(
                f"{self._config.base_url} answers {code} and points to {failure.headers.get('location', 'nowhere')}; "
                f"set base_url in {self._section} to where the model is served"
            )
        if code in REFUSED:
            return EndpointRefused(
                f"{self._config.base_url} answers {code} for model '{self._config.model}': {said}; "
                f"correct base_url, model or key_variable in {self._section}"
            )
        retry_after = _seconds(failure.headers.get("retry-after", ""))
        return AttemptFailed(f"http_{code}", said, code in AGAIN or code >= 500, retry_after)

    def _usable(self, completion: Completion) -> Completion:
        """The completion, if the model that was asked gave it and it has a choice. Raises AttemptFailed."""
        answered = (completion.model or "").lower()
        names = [name.lower() for name in (self._config.model, *self._config.aliases)]
        if answered and not any(name in answered or answered in name for name in names):
            said = f"'{self._said(answered)}' answered for '{names[0]}'"
            raise AttemptFailed("other_model", f"{said}; if it is the same model, add it to aliases", False)
        if not completion.choices:
            raise AttemptFailed("empty", "a response without a choice", False)
        return completion

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: the endpoint's wait plus jitter, or an exponential draw."""
        assert state.outcome is not None
        failed = state.outcome.exception()
        asked = failed.retry_after_s if isinstance(failed, AttemptFailed) else None
        longest = self._config.max_wait_s
        jitter = float(wait_random_exponential(multiplier=min(0.5, longest), max=longest)(state))
        return jitter if asked is None else min(asked + min(jitter, 1.0), longest)

    def _said(self, text: str) -> str:
        """The beginning of the endpoint's text in one line, without the key."""
        line = " ".join((text.replace(self._key, "***") if self._key else text).split())
        return line[:SAID_CHARS] or "nothing"


def answers(
    client: EndpointClient,
    concurrency: int,
    jobs: Iterable[Job],
    work: Callable[[Job, Callable[[Answer], None]], Awaitable[None]],
) -> Iterator[Answer]:
    """What `work` puts out for each job, as it comes; `concurrency` jobs at a time, until the budget is spent.

    Closes the client.
    """
    given: asyncio.Queue[Answer | None] = asyncio.Queue()
    waiting = iter(jobs)  # shared by all workers

    async def worker() -> None:
        with suppress(BudgetSpent):
            for job in waiting:
                await work(job, given.put_nowait)

    async def ask_all() -> None:
        try:
            async with aclosing(client):
                await asyncio.gather(*(worker() for _ in range(concurrency)))
        finally:
            given.put_nowait(None)

    with asyncio.Runner() as loop:  # cancels pending requests, however this generator ends
        asking = loop.get_loop().create_task(ask_all())
        while (answer := loop.run(given.get())) is not None:
            yield answer
        loop.run(asyncio.wait_for(asking, None))


@dataclass(eq=False, slots=True)
class _Failure(Exception):
    """An answer other than 2xx, with the beginning of its body."""

    status: int
    headers: httpx2.Headers
    text: str


async def _stop_at_failure(response: httpx2.Response) -> None:
    """Raise _Failure, because the client itself would read the whole body into memory, whatever its size."""
    if response.is_success:
        return
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) >= MAX_FAILED_BYTES:
            break
    text = bytes(body[:MAX_FAILED_BYTES]).decode(errors="replace")
    raise _Failure(response.status_code, response.headers, text)


def _most(payload: Mapping[str, Any]) -> Usage:
    """The most that a request can cost; a token has at least one byte."""
    messages = payload["messages"]
    limit = payload.get("max_tokens") or payload["max_completion_tokens"]
    prompt = sum(len(message["content"].encode()) + MESSAGE_TOKENS for message in messages)
    tools = [payload.get("tools"), *(message.get("tool_calls") for message in messages)]
    prompt += sum(len(json.dumps(part)) for part in tools if part)
    return Usage(prompt, payload.get("n", 1) * limit)


def _seconds(retry_after: str) -> float | None:
    """The seconds of a Retry-After header, a number or a date; None without a valid one."""
    with suppress(ValueError):
        return max(0.0, float(retry_after))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
