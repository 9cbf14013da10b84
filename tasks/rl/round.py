"""One RL round: `steps_per_round` on-policy steps, each a row of named phases, resumable between any two."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.rl.experience import Experience, build_experience, score
from tasks.rl.metrics import PhaseClock, learning_metrics, timing_metrics
from tasks.rl.probe import probe
from tasks.rl.problems import Problem, draw_problems, sample_seed
from tasks.rl.rollouts import RolloutShards
from tasks.rl.state import JsonLines, Progress, SavedStates, take_over
from tasks.rl.update import PolicyUpdate
from tasks.shared.config import RlStage
from tasks.shared.environment import rank, world_size
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Generator, Sampling
from tasks.shared.learning.distributed import gather_from_ranks
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.sandbox import Interpreter
from tasks.shared.stage import StageContext, Value
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.trajectory import Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_OUTAGES = (
    0.5  # of a step's trajectories; more, and the sandbox is ill: the round stops at its last saved step
)
SHOWN = (
    "reward",
    "accuracy",
    "code_ratio",
    "response_tokens",
    "entropy",
    "gap_max",
    "grad_norm",
    "seconds/step",
)


class RlRound:
    """Trainer, sampler and records of one round."""

    def __init__(
        self,
        context: StageContext[RlStage],
        *,
        model: "PreTrainedModel",
        reference: "PreTrainedModel | None",
        tokenizer: "PreTrainedTokenizerBase",
        problems: Sequence[Problem],
        generator: Generator,
        interpreter: Interpreter | None,
    ) -> None:
        self._context = context
        self._config = context.config
        self._tokenizer = tokenizer
        self._problems = problems
        self._generator = generator
        self._interpreter = interpreter
        rl = context.config.rl
        self.engine = TrainingEngine(
            model, rl.optimizer, total_steps=rl.rounds * rl.steps_per_round * rl.mini_batches
        )
        self._update = PolicyUpdate(self.engine, rl, reference)
        self.states = SavedStates(context.scratch / "trainer", self._fingerprint())
        self.shards = RolloutShards(context.scratch / "rollouts")
        self.progress = self._start()
        self.learning = JsonLines(context.scratch / "metrics.jsonl", self.progress.step)
        self.timing = JsonLines(context.scratch / "timing.jsonl", self.progress.step)

    @property
    def last_step(self) -> int:
        """The step that ends this round."""
        return self.progress.first_step + self._config.rl.steps_per_round

    def run(self) -> None:
        """Every step that is left; the state after the last one is saved."""
        self._sync()
        while self.progress.step < self.last_step:
            self._step()
            if (
                self.progress.step % self._config.rl.checkpoint_every_steps == 0
                or self.progress.step == self.last_step
            ):
                self.states.save(self.engine, self.progress)

    def _start(self) -> Progress:
        """Resume this round, go on from the round before, or begin."""
        progress = self.states.resume(self.engine)
        if progress is not None:
            self._context.log(f"resuming round {progress.round} after step {progress.step}")
            return progress
        if "trainer_state" in self._context.request.inputs:
            return take_over(self.engine, self._context.input("trainer_state"))
        return Progress(round=1, first_step=0, step=0, data_seed=self._context.request.seed)

    def _step(self) -> None:
        clock = PhaseClock()
        rl = self._config.rl
        problems = draw_problems(
            self._problems, rl.prompts_per_step, self.progress.step, self.progress.data_seed
        )
        with clock("sample"):
            trajectories = self._sample(problems)
        with clock("score"):
            graded = score(trajectories, problems, self._config)
        with clock("advantages"):
            experience = build_experience(graded, self._config, self._decode)
        self._require_a_sandbox(experience)
        with clock("update"):
            seed = sample_seed(self._context.request.seed, self.progress.step, len(problems), 0)
            result = self._update.update(experience, seed)
        with clock("sync"):
            self._sync()
        with clock("probe"):
            whole = [t.prompt_ids + t.response_ids for t in (row.trajectory for row in experience.graded)]
            gap = probe(self.engine, self._generator, whole, rl.probe_bound, rl.tokens_per_micro_batch)
        self.progress = replace(self.progress, step=self.progress.step + 1)
        metrics = learning_metrics(self.progress.step, self.progress.round, experience, result, gap)
        if rank() == 0:
            with clock("log"):
                self.shards.write(self.progress.round, self.progress.step, experience)
            timing: dict[str, Value] = {
                "step": self.progress.step,
                **timing_metrics(clock, experience, result),
            }
            self.learning.append(metrics)
            self.timing.append(
                timing | {"sandbox": self._interpreter.health() if self._interpreter else None}
            )
            self._show(metrics | timing)

    def _sample(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """This rank's share of the samples, then everyone's."""
        step, seed = self.progress.step, self._context.request.seed
        requests = [
            RolloutRequest(problem.id, sample, problem.prompt_ids, sample_seed(seed, step, place, sample))
            for place, problem in enumerate(problems)
            for sample in range(self._config.rl.samples_per_prompt)
            if place % world_size() == rank()
        ]
        mine = list(rollout(requests, self._generator, self._interpreter, self._tokenizer, self._policy()))
        return gather_from_ranks(mine)

    def _policy(self) -> RolloutPolicy:
        """Where the engine gives equal bits for equal calls, feedback is scheduled: then the clock decides nothing."""
        traces = self._config.traces
        reproducible = self._config.generation.engine == "transformers"
        return RolloutPolicy(
            dialect=DIALECTS[traces.dialect],
            max_calls=traces.max_calls,
            announce_remaining_calls=traces.announce_remaining_calls,
            error_feedback=traces.error_feedback,
            stateful=self._config.sandbox.stateful,
            sampling=Sampling(self._config.rl.temperature, self._config.rl.top_p),
            max_response_tokens=self._config.generation.max_response_tokens,
            delivery="scheduled" if reproducible else "ready",
        )

    def _sync(self) -> None:
        self._generator.load_weights(self.engine.weights())

    def _decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _require_a_sandbox(self, experience: Experience) -> None:
        outages, total = int(experience.outage.sum()), len(experience.outage)
        if outages > MOST_OUTAGES * total:
            raise RuntimeError(
                f"step {self.progress.step + 1}: the sandbox failed under {outages} of {total} trajectories, "
                "each tried several times; see its health in timing.jsonl, then run the stage again: it goes on from "
                "its last saved step"
            )

    def _show(self, metrics: dict[str, Value]) -> None:
        names = (
            "reward",
            "accuracy",
            "code_ratio",
            "response_tokens",
            "entropy",
            "gap_max",
            "grad_norm",
            "seconds/step",
        )
        shown = {name: metrics[name] for name in names}
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value for name, value in shown.items()
        }
        self._context.progress(
            self.progress.step - self.progress.first_step, self._config.rl.steps_per_round, **rounded
        )

    def _fingerprint(self) -> str:
        """What a saved state belongs to: configuration, inputs, seed, and the number of ranks it is cut for."""
        request = self._context.request
        inputs = {name: ref.digest for name, ref in sorted(request.inputs.items())}
        return json.dumps([request.config, inputs, request.seed, world_size()], sort_keys=True)
