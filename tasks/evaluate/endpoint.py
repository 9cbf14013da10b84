"""Samples of a checkpoint that `tirflow serve` serves: each one request with its seed, graded here.

The server runs the code. It tells the trajectory itself, tokens, log-probs and calls, so a sample is what the stage
would have taken with an engine of its own. Nothing it says is trusted to fit: prompt, tokens and limits are checked.
"""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.shared.config import EvaluateStage
from tasks.shared.evaluation.problems import SampleRequest
from tasks.shared.evaluation.sampling import encoded_prompts, graded
from tasks.shared.generation.endpoint.client import AttemptFailed, EndpointClient
from tasks.shared.generation.endpoint.completion import Completion
from tasks.shared.generation.endpoint.limits import BudgetSpent
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.reporting.offsets import token_ends
from tasks.shared.reporting.samples import Sample
from tasks.shared.traces.dialect import dialect_of
from tasks.shared.traces.finished import finished
from tasks.shared.traces.text_ids import ids_text
from tasks.shared.traces.trajectory import FinishReason, Trajectory, TrajectoryBuilder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECTION = "evaluate.endpoint"
SANDBOX_FAILED = '"code":"sandbox"'  # of the error that a server answers with when its sandbox fails


class EndpointSampler:
    """Takes samples by asking a server."""

    def __init__(self, config: EvaluateStage, tokenizer: "PreTrainedTokenizerBase", log: ResponseLog) -> None:
        """`tokenizer`: of the checkpoint that is served; `log`: answers that were given before are taken from it."""
        self._config = config
        self._tokenizer = tokenizer
        self._log = log
        self._dialect = dialect_of(config.traces, config.sandbox.preload)

    def take(self, wanted: Sequence[SampleRequest]) -> Iterator[Sample]:
        """Every wanted sample, graded, as it finishes; outages among them.

        ValueError, one line: the server refuses, keeps failing, or serves something else than this recipe's checkpoint.
        """
        named = {_name(want): want.problem for want in wanted}
        prompts = encoded_prompts(self._config, self._tokenizer, named)
        with asyncio.Runner() as loop:  # ends what is in flight, however this generator ends
            taken: asyncio.Queue[Trajectory | None] = asyncio.Queue()
            asking = loop.get_loop().create_task(self._ask_all(wanted, prompts, taken))
            while (trajectory := loop.run(taken.get())) is not None:
                ends = token_ends(self._tokenizer, trajectory.response_ids, trajectory.text)
                yield graded(trajectory, named[trajectory.problem_id], ends, self._config.traces.dialect)
            loop.run(asyncio.wait_for(asking, None))

    async def _ask_all(
        self,
        wanted: Sequence[SampleRequest],
        prompts: dict[str, tuple[int, ...]],
        taken: "asyncio.Queue[Trajectory | None]",
    ) -> None:
        """As many requests at a time as the recipe says; None at the end."""
        endpoint = self._config.evaluate.endpoint
        waiting = iter(wanted)

        async def work(client: EndpointClient) -> None:
            for want in waiting:
                taken.put_nowait(await self._ask(client, want, prompts[_name(want)]))

        try:
            async with EndpointClient(endpoint, SECTION, self._log) as client:
                await asyncio.gather(*(work(client) for _ in range(endpoint.concurrency)))
        finally:
            taken.put_nowait(None)

    async def _ask(self, client: EndpointClient, want: SampleRequest, prompt: tuple[int, ...]) -> Trajectory:
        """One sample; an outage where the server's sandbox failed under it."""
        where = f"{self._config.evaluate.endpoint.base_url}: {_name(want)}, sample {want.sample}"
        try:
            completion = await client.ask(_name(want), want.sample, 0, self._payload(want))
            return self._read(completion, want, prompt)
        except AttemptFailed as failed:
            if SANDBOX_FAILED in failed.said.replace(" ", ""):
                builder = TrajectoryBuilder(_name(want), want.sample, prompt)
                return builder.finish(FinishReason.SANDBOX_FAILURE, "", "")
            raise ValueError(
                f"{where}: {failed}; see to the server and run again: answers are kept"
            ) from None
        except BudgetSpent:
            raise ValueError(
                f"{where}: the budget of {SECTION} is spent; raise budget_tokens or budget_money and run again: "
                "answers are kept"
            ) from None

    def _read(self, completion: Completion, want: SampleRequest, prompt: tuple[int, ...]) -> Trajectory:
        """The trajectory that the server tells. ValueError, one line, if it is not of this recipe."""
        base_url, config = self._config.evaluate.endpoint.base_url, self._config
        told = completion.choices[0].message.trajectory
        if told is None:
            raise ValueError(f"{base_url} tells no trajectory: {SECTION} is a server of `tirflow serve`")
        if tuple(told.prompt_ids) != prompt:
            raise ValueError(
                f"{base_url} reads problem {want.problem.id} as another prompt: it serves another recipe or tokenizer "
                "than this evaluation's; serve the checkpoint with the recipe of its run"
            )
        for number, most, what in (
            (len(told.calls), config.traces.max_calls, "calls"),
            (len(told.response_ids), config.generation.max_response_tokens, "tokens"),
        ):
            if number > most:
                raise ValueError(
                    f"{base_url} gives {number} {what} where this evaluation has at most {most}; "
                    "serve with the same limits (tirflow serve --set)"
                )
        try:
            builder = told.builder(_name(want), want.sample, len(self._tokenizer))
        except ValueError as error:
            raise ValueError(f"{base_url}: {error}; serve the checkpoint that is evaluated") from None
        return finished(builder, told.finish, partial(ids_text, self._tokenizer), self._dialect)

    def _payload(self, want: SampleRequest) -> dict[str, Any]:
        """What one request sends."""
        config = self._config
        system = [{"role": "system", "content": want.problem.system}] if want.problem.system else []
        return {
            "model": config.evaluate.endpoint.model,
            "messages": [*system, {"role": "user", "content": want.problem.problem}],
            "seed": want.seed,
            "temperature": config.evaluate.temperature,
            "top_p": config.evaluate.top_p,
            "max_tokens": config.generation.max_response_tokens,
            "extra_body": {"interpreter": "text", "return_trajectory": True},
        }


def _name(want: SampleRequest) -> str:
    return f"{want.problem.set}/{want.problem.id}"
