"""One RL round: `steps_per_round` on-policy steps, each a row of named phases, resumable between any two."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.rl.critic import CriticUpdate, with_advantages
from tasks.rl.experience import Experience, build_experience
from tasks.rl.metrics import PhaseClock, learning_metrics, timing_metrics
from tasks.rl.probe import probe
from tasks.rl.problems import Problem, sample_seed
from tasks.rl.rollouts import RolloutShards
from tasks.rl.sampling import Sampler
from tasks.rl.state import JsonLines, Progress, SavedStates, take_over
from tasks.rl.update import PolicyUpdate
from tasks.shared.config import OptimizerConfig, RlConfig, RlStage
from tasks.shared.environment import home, rank, world_size
from tasks.shared.generation.interleave import RolloutPolicy
from tasks.shared.generation.protocol import Generator, Sampling
from tasks.shared.learning.critic import CriticEngine
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.sinks import MetricsSinks, open_sinks
from tasks.shared.sandbox import Interpreter
from tasks.shared.stage import StageContext, Value
from tasks.shared.traces.dialect import DIALECTS

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
# Places in a step that no problem has: seeds of other draws.
UPDATE_PLACE, RESAMPLE_PLACE = 2**31, 2**31 + 1


class RlRound:
    """Trainer, sampler and records of one round."""

    def __init__(
        self,
        context: StageContext[RlStage],
        *,
        model: "PreTrainedModel",
        critic: "PreTrainedModel | None",
        reference: "PreTrainedModel | None",
        tokenizer: "PreTrainedTokenizerBase",
        problems: Sequence[Problem],
        generator: Generator,
        interpreter: Interpreter | None,
    ) -> None:
        self._context = context
        self._config = context.config
        self._tokenizer = tokenizer
        self._generator = generator
        self._interpreter = interpreter
        rl = context.config.rl
        policy_steps, critic_steps = _optimizer_steps(rl)
        self.engine = TrainingEngine(model, rl.optimizer, total_steps=policy_steps)
        self.critic: CriticEngine | None = None
        if critic is not None:
            self.critic = CriticEngine(critic, _critic_optimizer(rl), total_steps=critic_steps)
        self._update = PolicyUpdate(self.engine, rl, reference, context.config.generation.max_response_tokens)
        self._critic_update = CriticUpdate(self.critic, rl) if self.critic is not None else None
        self._sampler = Sampler(
            context.config,
            self._policy(),
            problems=problems,
            generator=generator,
            interpreter=interpreter,
            tokenizer=tokenizer,
            seed=context.request.seed,
        )
        self.states = SavedStates(context.scratch / "trainer", self._fingerprint())
        self.shards = RolloutShards(context.scratch / "rollouts")
        self.progress = self._start()
        self.learning = JsonLines(context.scratch / "metrics.jsonl", self.progress.step)
        self.timing = JsonLines(context.scratch / "timing.jsonl", self.progress.step)
        self._sinks = self._open_sinks()

    @property
    def last_step(self) -> int:
        """The step that ends this round."""
        return self.progress.first_step + self._config.rl.steps_per_round

    def run(self) -> None:
        """Every step that is left; the state after the last one is saved."""
        self._sync()
        with closing(self._sinks):
            self._steps()

    def _steps(self) -> None:
        while self.progress.step < self.last_step:
            self._step()
            if (
                self.progress.step % self._config.rl.checkpoint_every_steps == 0
                or self.progress.step == self.last_step
            ):
                self.states.save(self.engine, self.critic, self.progress)

    def _start(self) -> Progress:
        """Resume this round, go on from the round before, or begin."""
        progress = self.states.resume(self.engine, self.critic)
        if progress is not None:
            self._context.log(f"resuming round {progress.round} after step {progress.step}")
            return progress
        if "trainer_state" in self._context.request.inputs:
            return take_over(self.engine, self.critic, self._context.input("trainer_state"))
        return Progress(round=1, first_step=0, step=0, data_seed=self._context.request.seed)

    def _step(self) -> None:
        clock = PhaseClock()
        step, rl = self.progress.step, self._config.rl
        graded = self._sampler.collect(step, self.progress.data_seed, clock)
        with clock("advantages"):
            experience = build_experience(graded, self._config, self._decode, self._seed(RESAMPLE_PLACE))
        self._require_a_sandbox(experience)
        critic_metrics: dict[str, Value] = {}
        if self._critic_update is not None:
            with clock("values"):
                evaluated = self._critic_update.evaluate(experience)
                experience = with_advantages(experience, evaluated, rl.critic.whiten_advantages)
            with clock("critic"):
                critic_metrics = self._critic_update.update(experience, evaluated, self._seed(UPDATE_PLACE))
        with clock("update"):
            learn = step >= rl.critic.warmup_steps
            result = self._update.update(experience, self._seed(UPDATE_PLACE), learn)
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
            self._log(metrics | critic_metrics, timing_metrics(clock, experience, result))

    def _log(self, metrics: dict[str, Value], timing: dict[str, Value]) -> None:
        step = self.progress.step
        self.learning.append(metrics)
        health = self._interpreter.health() if self._interpreter else None
        self.timing.append({"step": step, **timing, "sandbox": health})
        self._sinks.log(step, metrics | timing)
        self._show(metrics | timing)

    def _open_sinks(self) -> MetricsSinks:
        request, names = self._context.request, self._config.rl.sinks if rank() == 0 else ()
        directory = home() / "tensorboard"
        return open_sinks(names, directory, request.run, "rl", request.config, self.progress.step)

    def _seed(self, place: int) -> int:
        return sample_seed(self._context.request.seed, self.progress.step, place, 0)

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
        shown = {name: metrics[name] for name in SHOWN}
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


def _critic_optimizer(rl: RlConfig) -> OptimizerConfig:
    """The policy's, with a rate of its own."""
    return rl.optimizer.model_copy(update={"learning_rate": rl.critic.learning_rate})


def _optimizer_steps(rl: RlConfig) -> tuple[int, int]:
    """Optimizer steps of policy and critic over all rounds: the policy waits while the critic warms up."""
    steps = rl.rounds * rl.steps_per_round
    return (steps - rl.critic.warmup_steps) * rl.mini_batches, steps * rl.mini_batches
