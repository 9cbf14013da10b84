"""A judge behind an endpoint: votes on novelty and significance of a trace's code (OpenMathReasoning)."""

import asyncio
import re
import threading
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from data.prompts import render_prompt
from tasks.shared.generation.endpoint.client import AttemptFailed, EndpointClient
from tasks.shared.generation.endpoint.limits import BudgetSpent, FailureShare
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.synthesize.config import JudgeConfig
from tasks.synthesize.selection import Vote
from tasks.synthesize.traces import TrainingProblem

OBJECT = re.compile(r"\{[^{}]*\}")
VOTE = TypeAdapter(Vote)  # the JSON object that `data/prompts/judge.j2` requests


class EndpointJudge:
    """Asks for votes in an event loop of its own thread. Use as a context manager; `vote` may come from any thread."""

    def __init__(self, config: JudgeConfig, log: ResponseLog) -> None:
        """ValueError if the key that the recipe names is not set."""
        self._config = config
        self._client = EndpointClient(config, "synthesize.judge", log)
        self._share = FailureShare(config, "judge")
        self._slots = asyncio.Semaphore(config.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)

    def __enter__(self) -> "EndpointJudge":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def vote(self, problem: TrainingProblem, trace: str) -> Sequence[Vote]:
        """The votes on one trace; none if no answer could be used. ValueError if that happens too often."""
        return asyncio.run_coroutine_threadsafe(self._votes(problem, trace), self._loop).result()

    async def _votes(self, problem: TrainingProblem, trace: str) -> list[Vote]:
        answer = "nothing"
        votes: list[Vote] = []
        message = {"role": "user", "content": render_prompt("judge", problem=problem.problem, trace=trace)}
        for number in range(self._config.votes):
            payload = self._config.payload([message], self._config.max_response_tokens, seed=number)
            try:
                async with self._slots:
                    completion = await self._client.ask(problem.id, number, 0, payload)
            except AttemptFailed as failed:
                answer = str(failed)
                continue
            except BudgetSpent:
                answer = "the budget is spent"
                break
            answer = completion.choices[0].message.content or answer
            votes += read_vote(answer)
        self._share.count("" if votes else answer)
        return votes


def read_vote(answer: str) -> list[Vote]:
    """The vote in an answer, its last JSON object; empty if that is no vote."""
    try:
        return [VOTE.validate_json(found) for found in OBJECT.findall(answer)[-1:]]
    except ValidationError:
        return []
