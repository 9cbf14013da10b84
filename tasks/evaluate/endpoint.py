"""Samples of a checkpoint that `tirflow serve` serves: one request with a seed each, graded here.

The server runs the code and returns the trajectory: tokens, log-probs and calls. So a sample is what the stage would
have taken with an engine of its own. The answer is not trusted: prompt, tokens and limits are checked.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.shared.config import EvaluateStage
from tasks.shared.evaluation.problems import SampleRequest
from tasks.shared.evaluation.sampling import encoded_prompts, graded
from tasks.shared.generation.endpoint.client import AttemptFailed, EndpointClient, answers
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
SANDBOX_FAILED = '"code":"sandbox"'  # in a server's error if its sandbox fails


class EndpointSampler:
    """Takes samples by asking a server."""

    def __init__(self, config: EvaluateStage, tokenizer: "PreTrainedTokenizerBase", log: ResponseLog) -> None:
        """`tokenizer`: of the checkpoint that is served; `log`: serves answers that were given before."""
        self._config = config
        self._tokenizer = tokenizer
        self._log = log
        self._dialect = dialect_of(config.traces, config.sandbox.preload)

    def take(self, requests: Sequence[SampleRequest]) -> Iterator[Sample]:
        """Every requested sample, graded, as it finishes; outages among them.

        ValueError, one line: the server refuses, keeps failing, or serves another checkpoint than this recipe's.
        """
        problems = {request.problem.name: request.problem for request in requests}
        prompts = encoded_prompts(self._config, self._tokenizer, problems.values())
        endpoint = self._config.evaluate.endpoint
        client = EndpointClient(endpoint, SECTION, self._log)

        async def ask(request: SampleRequest, put: Callable[[Trajectory], None]) -> None:
            put(await self._ask(client, request, prompts[request.problem.name]))

        for trajectory in answers(client, endpoint.concurrency, requests, ask):
            ends = token_ends(self._tokenizer, trajectory.response_ids, trajectory.text)
            yield graded(trajectory, problems[trajectory.problem_id], ends, self._config.traces.dialect)

    async def _ask(
        self, client: EndpointClient, request: SampleRequest, prompt: tuple[int, ...]
    ) -> Trajectory:
        """One sample; an outage if the server's sandbox failed."""
        name, sample = request.problem.name, request.sample
        where = f"{self._config.evaluate.endpoint.base_url}: {name}, sample {sample}"
        try:
            completion = await client.ask(name, sample, 0, self._payload(request))
            return self._read(completion, request, prompt)
        except AttemptFailed as failed:
            if SANDBOX_FAILED in failed.said.replace(" ", ""):
                builder = TrajectoryBuilder(name, sample, prompt)
                return builder.finish(FinishReason.SANDBOX_FAILURE, "", "")
            raise ValueError(
                f"{where}: {failed}; see to the server and run again: answers are kept"
            ) from None
        except BudgetSpent:
            raise ValueError(
                f"{where}: the budget of {SECTION} is spent; raise budget_tokens or budget_money and run again: "
                "answers are kept"
            ) from None

    def _read(self, completion: Completion, request: SampleRequest, prompt: tuple[int, ...]) -> Trajectory:
        """The trajectory of an answer. ValueError, one line, if it does not fit this recipe."""
        base_url, config = self._config.evaluate.endpoint.base_url, self._config
        served = completion.choices[0].message.trajectory
        if served is None:
            raise ValueError(
                f"{base_url} returns no trajectory: {SECTION} must be a server of `tirflow serve`"
            )
        if tuple(served.prompt_ids) != prompt:
            raise ValueError(
                f"{base_url} reads problem {request.problem.id} as another prompt: it serves another recipe or "
                "tokenizer than this evaluation's; serve the checkpoint with the recipe of its run"
            )
        for number, most, what in (
            (len(served.calls), config.traces.max_calls, "calls"),
            (len(served.response_ids), config.generation.max_response_tokens, "tokens"),
        ):
            if number > most:
                raise ValueError(
                    f"{base_url} gives {number} {what} where this evaluation has at most {most}; "
                    "serve with the same limits (tirflow serve --set)"
                )
        try:
            builder = served.builder(request.problem.name, request.sample, len(self._tokenizer))
        except ValueError as error:
            raise ValueError(f"{base_url}: {error}; serve the checkpoint that is evaluated") from None
        return finished(builder, served.finish, partial(ids_text, self._tokenizer), self._dialect)

    def _payload(self, request: SampleRequest) -> dict[str, Any]:
        """The body of one request."""
        config, problem = self._config, request.problem
        system = [{"role": "system", "content": problem.system}] if problem.system else []
        return {
            "model": config.evaluate.endpoint.model,
            "messages": [*system, {"role": "user", "content": problem.problem}],
            "seed": request.seed,
            "temperature": config.evaluate.temperature,
            "top_p": config.evaluate.top_p,
            "max_tokens": config.generation.max_response_tokens,
            "extra_body": {"interpreter": "text", "return_trajectory": True},
        }
