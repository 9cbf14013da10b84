"""One RL round: `steps_per_round` steps of named phases, resumable between any two steps."""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.rl.ahead import Ahead, AheadFollower
from tasks.rl.config import RlConfig
from tasks.rl.critic import CriticUpdate, with_advantages
from tasks.rl.evaluation import Curve
from tasks.rl.experience import Experience, build_experience
from tasks.rl.health import require_entropy, require_experience
from tasks.rl.metrics import PhaseClock, learning_metrics, timing_metrics
from tasks.rl.objective.critic import CriticEngine
from tasks.rl.probe import BOUNDS, MAX_PROBED, Gap, probe
from tasks.rl.problems import RlProblem, sample_seed
from tasks.rl.records import RoundRecords
from tasks.rl.reward_function import RewardFunction
from tasks.rl.sampling import Experiences, Recorded, Sampler
from tasks.rl.spec import RlStage
from tasks.rl.staleness import staleness_metrics
from tasks.rl.state import Progress, SavedStates, take_over
from tasks.rl.update import PolicyUpdate
from tasks.shared.contract.environment import rank, world_size
from tasks.shared.contract.scratch import claim
from tasks.shared.contract.stage import StageContext, Value
from tasks.shared.generation.interleave import RolloutPolicy
from tasks.shared.generation.protocol import Generator, Sampling, Sleeps
from tasks.shared.learning.distributed import from_first_rank, stopped_together
from tasks.shared.learning.engine import Engine, TrainingEngine
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.text_ids import ids_text

# Places in a step beyond those of problems, from which other draws get their seeds.
UPDATE_PLACE, RESAMPLE_PLACE = 2**31, 2**31 + 1


class RlRound:
    """Trainer, sampler and records of one round."""

    def __init__(
        self,
        context: StageContext[RlStage],
        *,
        load_model: Callable[[], PreTrainedModel],
        reference: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        problems: Sequence[RlProblem],
        generator: Generator | None,
        tool: Tool | None,
        judge: RewardFunction | None,
    ) -> None:
        """Without a generator the round trains on its input `record` again and samples nothing."""
        self._context = context
        self._config = context.config
        self._tokenizer = tokenizer
        self._problems = problems
        self._generator = generator
        self._tool = tool
        rl = context.config.rl
        policy_steps, critic_steps = _optimizer_steps(rl)
        if rl.offload_while_sampling:
            self._sleep()  # the whole trainer is loaded onto the device
        # One model at a time: only one is ever whole in the host's memory.
        self.engine = TrainingEngine(load_model(), rl.optimizer, total_steps=policy_steps)
        self.critic: CriticEngine | None = None
        if rl.algorithm == "ppo":
            # the policy's optimizer with a rate of its own, and without adapters
            own = {"learning_rate": rl.critic.learning_rate, "lora": None}
            self.critic = CriticEngine(
                load_model(), rl.optimizer.model_copy(update=own), total_steps=critic_steps
            )
        self._update = PolicyUpdate(self.engine, rl, reference, context.config.generation.max_response_tokens)
        self._critic_update = CriticUpdate(self.critic, rl) if self.critic is not None else None
        self.states = SavedStates(context.scratch / "trainer", context.fingerprint(world_size()))
        self.progress = self._start()
        self.sampler = self._make_sampler(judge)
        self._records = RoundRecords(context, self.progress) if rank() == 0 else None
        self._keeps_weights = False  # whether the sampler keeps weights that are evaluated
        self.curve: Curve | None = None
        if rl.evaluate_every_steps and generator is not None:
            self.curve = Curve(context, self.engine, generator, tool, self.progress, self._records)

    @property
    def last_step(self) -> int:
        """The step that ends this round."""
        return self.progress.first_step + self._config.rl.steps_per_round

    @property
    def records(self) -> RoundRecords:
        """Metrics, timing and rollouts, in the first rank."""
        assert self._records is not None, "only the first rank has records"
        return self._records

    def run(self) -> None:
        """Run the remaining steps; the state after the last one is saved."""
        with (
            closing(self.sampler),
            closing(self._records) if self._records is not None else nullcontext(),
            closing(self.curve) if self.curve is not None else nullcontext(),
        ):
            self._sync(self.progress.step)
            self._probe([problem.prompt_ids for problem in self._problems])
            self._steps()
            if self.curve is not None:
                self.curve.at(self.progress)
                self.curve.finish()

    def _steps(self) -> None:
        """Save states when due, but after a running evaluation, which a round resumed from an earlier state repeats."""
        every, is_due = self._config.rl.checkpoint_every_steps, False
        while self.progress.step < self.last_step:
            self._step()
            is_due |= self.progress.step % every == 0 or self.progress.step == self.last_step
            if is_due and not self._keeps_weights:
                is_due = False
                self.states.save(self.engine, self.critic, self.progress)
                self.sampler.saved(self.progress.step)
                if self.curve is not None:
                    self.curve.saved(self.progress.step)

    def _make_sampler(self, judge: RewardFunction | None) -> Experiences:
        """The source of the steps' trajectories: a record, a sampler in turn with the trainer, or one beside it."""
        context, staleness = self._context, self._config.rl.staleness
        if self._generator is None:
            return Recorded(context.input("record"))
        if staleness and rank() > 0:
            return AheadFollower()
        policy, seed = rollout_policy(self._config), context.request.seed
        sampler = self._generator, self._tool, self._tokenizer
        live = self._config, policy, self._problems, *sampler, seed, judge
        if not staleness:
            return Sampler(*live)
        directory = context.scratch / "ahead"
        claim(directory, context.fingerprint(world_size()), "groups")
        return Ahead(*live, directory, self.progress, self.last_step)

    def _start(self) -> Progress:
        """Resume this round, continue from the round before, or begin."""
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
        if self.curve is not None:
            with clock("evaluate"):
                self.curve.at(self.progress)
        graded = self.sampler.collect(step, self.progress.data_seed, clock)
        if rl.sleep_sampler or rl.offload_while_sampling:
            with clock("sleep"):
                self._sleep()
                for engine in self._offloaded():
                    engine.states.take_back()
        with clock("advantages"):
            decode = partial(ids_text, self._tokenizer)
            experience = build_experience(graded, self._config, decode, self._seed(RESAMPLE_PLACE))
        stopped_together(lambda: require_experience(experience, step + 1, rl))
        critic_metrics: dict[str, Value] = {}
        if self._critic_update is not None:
            with clock("values"):
                evaluated = self._critic_update.evaluate(experience)
                experience = with_advantages(experience, evaluated, rl.critic.whiten_advantages)
            with clock("critic"):
                critic_metrics = self._critic_update.update(experience, evaluated, self._seed(UPDATE_PLACE))
        with clock("update"):
            learn = step >= rl.critic.warmup_steps
            result = self._update.update(experience, self._seed(UPDATE_PLACE), learn, step)
        require_entropy(result, step + 1, rl)
        gap = self._renew_sampler(step + 1, experience, clock)
        self.progress = replace(self.progress, step=step + 1, drawn=self.sampler.drawn)
        if self._records is not None:
            metrics = learning_metrics(self.progress.step, self.progress.round, experience, result, gap)
            metrics |= staleness_metrics(
                step, [row.trajectory for row in graded], result.by_age, rl.staleness
            )
            with clock("log"):
                self._records.shards.write(self.progress.round, self.progress.step, experience)
            health = self._tool.health() if self._tool else None
            timing = timing_metrics(clock, experience, result) | self.sampler.measured(clock)
            self._records.log(metrics | critic_metrics, timing, health)

    def _renew_sampler(self, step: int, experience: Experience, clock: PhaseClock) -> Gap | None:
        """Give the sampler the weights after `step` steps and probe it; None while an evaluation keeps older ones."""
        if self.curve is not None:
            with clock("evaluate"):
                self._keeps_weights = self.curve.keeps_weights(replace(self.progress, step=step))
                if self._keeps_weights:
                    self.sampler.keep(step)
                    return None
                self.curve.finish()  # before the weights change under it
        with clock("sync"):
            self._sync(step)
        with clock("probe"):
            some = [row.trajectory for row in experience.graded[:MAX_PROBED]]
            whole = [[*trajectory.prompt_ids, *trajectory.response_ids] for trajectory in some]
            return self._probe(from_first_rank(whole))

    def _seed(self, place: int) -> int:
        return sample_seed(self._context.request.seed, self.progress.step, place, 0)

    def _sleep(self) -> None:
        """If the recipe asks for it, free the sampler's memory for the trainer until the next weights."""
        if self._config.rl.sleep_sampler and self._generator is not None:
            assert isinstance(self._generator, Sleeps)  # the recipe's engine is vLLM
            self._generator.sleep()

    def _offloaded(self) -> list[Engine]:
        """The engines whose states are offloaded while the sampler is awake."""
        if not self._config.rl.offload_while_sampling:
            return []
        return [self.engine, *([self.critic] if self.critic is not None else [])]

    def _sync(self, step: int) -> None:
        """Give the sampler the weights after `step` steps."""
        for engine in self._offloaded():
            engine.states.put_away()
        if (generator := self._generator) is not None:
            self.sampler.sync(step, lambda: generator.load_weights(self.engine.weights()))

    def _probe(self, sequences: Sequence[Sequence[int]]) -> Gap | None:
        """The gap between sampler and trainer; None without a sampler."""
        if self._generator is None:
            return None
        rl = self._config.rl
        bound = rl.probe_bound or BOUNDS[self._config.model.dtype]
        return probe(self.engine, self._generator, sequences, bound, rl.tokens_per_micro_batch)


def rollout_policy(config: RlStage) -> RolloutPolicy:
    """A round's rollout policy: it samples at the temperature of its loss."""
    sampling = Sampling(config.rl.temperature, config.rl.top_p)
    return RolloutPolicy.of(config.traces, config.sandbox, config.generation, sampling)


def _optimizer_steps(rl: RlConfig) -> tuple[int, int]:
    """Optimizer steps of policy and critic over all rounds; the policy has none while the critic warms up."""
    steps = rl.num_rounds * rl.steps_per_round
    return (steps - rl.critic.warmup_steps) * rl.mini_batches, steps * rl.mini_batches
