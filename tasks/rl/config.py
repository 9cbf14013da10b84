"""The section `rl` of the configuration tree.

A number that can be switched off is off at 0, because TOML has no null. Contradictory settings are errors here, before
anything heavy starts.
"""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.shared.config import MetricsSink, OptimizerConfig, Section

REWARD = re.compile(r"(?:/.+|\w+(?:\.\w+)*):[A-Za-z_]\w*")
Objective = Literal["clip", "gspo", "cispo"]
Reduction = Literal["token", "sequence", "constant"]


class CriticConfig(Section):
    """PPO's critic. Other settings (ZeRO, ranks, betas, clipping, offload) are those of `rl.optimizer`, except LoRA:
    every weight of a critic is trained."""

    learning_rate: float = Field(2e-6, gt=0)  # verl's ReTool recipe; the paper does not state it
    warmup_steps: int = Field(0, ge=0)  # RL steps of the first round in which the critic alone learns
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(1.0, ge=0, le=1)  # GAE
    value_clip: float = Field(0.5, ge=0)  # verl's default; 0 is off
    whiten_advantages: bool = True  # mean 0 and deviation 1 over the tokens in the loss, as verl does for GAE


class RlConfig(Section):
    """RL with live code; a round is one run of the stage, of `steps_per_round` steps."""

    # their number, or the changes in each: [{ "generation.max_response_tokens" = 8192 }, {}] (`recipes.round_recipe`)
    rounds: int | tuple[dict[str, Any], ...] = 4
    problems: tuple[str, ...] = ()  # the sampled sets of data.train; empty: all
    steps_per_round: int = Field(100, ge=1)
    # 0: samples and trains in turn. More: samples while it trains, and a step's trajectories may have been begun up to
    # so many steps before it (docs/asynchronous.md)
    staleness: int = Field(0, ge=0)
    # new weights go to running requests, which continue with them; false: running requests end first
    update_in_flight: bool = False
    prompts_per_step: int = Field(128, ge=1)
    samples_per_prompt: int = Field(16, ge=1)
    algorithm: Literal["ppo", "grpo", "dr_grpo", "rloo", "reinforce"] = "grpo"
    critic: CriticConfig = CriticConfig()  # of "ppo" alone
    # clip: PPO's; gspo: ratio and clip of the whole sequence (arXiv 2507.18071, with clip_low 3e-4, clip_high 4e-4,
    # reduction "sequence"); cispo: the clipped ratio weights the gradient, no token loses it (arXiv 2506.13585)
    objective: Objective = "clip"
    # token: every sampled token of the batch has the same weight (DAPO); sequence: every trajectory (GRPO);
    # constant: divides by the most tokens that could be sampled, however many were (Dr.GRPO)
    reduction: Reduction = "token"
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)  # clip-higher (DAPO)
    # of "clip": bounds the loss of a negative advantage A by -c A; 0 is off
    dual_clip: float = Field(3.0, ge=0)
    mini_batches: int = Field(1, ge=1)  # optimizer steps on one batch of rollouts
    temperature: float = Field(1.0, gt=0)
    top_p: float = 1.0
    kl_coefficient: float = Field(0.0, ge=0)
    entropy_coefficient: float = Field(0.0, ge=0)
    importance_cap: float = Field(2.0, ge=0)  # truncated importance sampling, trainer over sampler; 0 is off
    # a trajectory whose geometric mean of trainer over sampler leaves [1 / bound, bound] is masked; 0 is off
    sequence_mask: float = Field(0.0, ge=0)
    filter_void_turns: bool = True  # SimpleTIR
    # dynamic sampling (DAPO): a group all correct or all wrong teaches nothing
    drop_equal_rewards: bool = True
    # times that a step samples at most, to replace groups of equal rewards; 1: never replaces
    resample_attempts: int = Field(1, ge=1)
    # rStar2: samples twice as many and keeps half, preferring correct ones with clean code
    resample_on_correct: bool = False
    # its penalties also count answers that are missing, broken or given more than once (rStar2)
    resample_format_penalty: bool = False
    # "package.module:function" or "/absolute/path.py:function", which scores answers in place of +1 and -1
    reward: str = ""
    reward_arguments: dict[str, str | int | float | bool] = Field({})  # of the function
    # the only secret that its process gets
    reward_key_variable: str = Field("", pattern=r"^([A-Z][A-Z0-9_]*)?$")
    reward_seconds: float = Field(600.0, gt=0)  # for one rank's responses in a step
    reward_memory_mb: int = Field(4096, ge=64)
    overlong_buffer_tokens: int = Field(0, ge=0)  # soft overlong penalty (DAPO); 0 is off
    failed_code_penalty: float = Field(0.0, ge=0)  # ToRL tried 0.5, without a gain
    tokens_per_micro_batch: int = Field(18432, ge=1)  # holds at least one prompt and response
    checkpoint_every_steps: int = Field(10, ge=1)
    # steps between two evaluations of the weights, for a curve (docs/rl.md); 0: never
    evaluate_every_steps: int = Field(0, ge=0)
    evaluate_sets: tuple[str, ...] = ()  # names of data.evaluation; empty: all
    evaluate_samples: int = Field(4, ge=1)  # of each problem
    evaluate_top_p: float = Field(0.7, gt=0, le=1)
    # best: also keeps the checkpoint of the highest accuracy, which is then evaluated in place of the last
    keep: Literal["last", "best"] = "last"
    # on the mean |log-prob| gap of sampler and trainer after a weight sync; 0: a bound for model.dtype
    probe_bound: float = Field(0.0, ge=0)
    # for vLLM and trainer on the same GPU: vLLM sleeps from a step's last sample to the weight sync, and the trainer
    # uses its memory. The CPU build makes the same calls and frees nothing.
    sleep_sampler: bool = False
    # the reverse, under ZeRO-3: what only optimizer steps use (master weights, moments, gradients) is in the host's
    # memory while the sampler is awake
    offload_while_sampling: bool = False
    min_entropy: float = Field(0.0, ge=0)  # nats a sampled token; a policy below it has collapsed; 0 is off
    on_empty_step: Literal["skip", "stop"] = "skip"  # a step whose filters left nothing to learn from
    optimizer: OptimizerConfig = OptimizerConfig()
    # beside metrics.jsonl; TensorBoard's files are under <home>/tensorboard
    sinks: tuple[MetricsSink, ...] = ()

    @field_validator("reward")
    @classmethod
    def _reward_is_a_place(cls, reward: str) -> str:
        place = reward.rpartition(":")[0]
        of_file = place.endswith(".py") and place.startswith("/")
        if reward and (not REWARD.fullmatch(reward) or place.endswith(".py") != of_file):
            raise ValueError("write package.module:function, or /absolute/path.py:function")
        return reward

    @field_validator("rounds")
    @classmethod
    def _there_is_a_round(cls, rounds: int | tuple[dict[str, Any], ...]) -> int | tuple[dict[str, Any], ...]:
        if not rounds or (isinstance(rounds, int) and rounds < 1):
            raise ValueError("should be greater than or equal to 1, or a list of what changes in each round")
        return rounds

    @property
    def num_rounds(self) -> int:
        """The number of rounds."""
        return self.rounds if isinstance(self.rounds, int) else len(self.rounds)

    @property
    def num_samples(self) -> int:
        """Trajectories that are sampled of each problem."""
        return self.samples_per_prompt * (2 if self.resample_on_correct else 1)

    @model_validator(mode="after")
    def _loss_keys_fit_together(self) -> Self:
        if self.top_p != 1.0:
            raise ValueError(
                "rl.top_p must be 1.0: truncated sampling biases the ratio; use evaluate.top_p for evaluation"
            )
        for name in ("dual_clip", "importance_cap", "sequence_mask"):
            value = getattr(self, name)
            if 0 < value <= 1:
                raise ValueError(f"rl.{name} = {value:g}: a bound of a ratio is over 1; 0 switches it off")
        if self.objective == "gspo" and self.reduction != "sequence":
            raise ValueError(
                "rl.objective = 'gspo' gives sequences equal weight: set rl.reduction = 'sequence', "
                f"not '{self.reduction}'"
            )
        if self.algorithm != "ppo" and self.critic != CriticConfig():
            raise ValueError(
                f"rl.critic needs algorithm 'ppo', but rl.algorithm = '{self.algorithm}': take it out or use 'ppo'"
            )
        grouped = self.algorithm in ("grpo", "dr_grpo", "rloo")
        if self.samples_per_prompt == 1 and (grouped or self.drop_equal_rewards):
            reason = f"algorithm '{self.algorithm}'" if grouped else "drop_equal_rewards = true"
            raise ValueError(
                f"rl.samples_per_prompt = 1: {reason} compares the samples of a group; use 2 or more"
            )
        total = self.num_rounds * self.steps_per_round
        if self.critic.warmup_steps >= total:
            raise ValueError(
                f"rl.critic.warmup_steps = {self.critic.warmup_steps}: no step is left of "
                f"rounds x steps_per_round = {total} for the policy; lower it"
            )
        return self

    @model_validator(mode="after")
    def _sampling_keys_fit_together(self) -> Self:
        if self.keep == "best" and not self.evaluate_every_steps:
            raise ValueError(
                "rl.keep = 'best' needs evaluations to choose by: set rl.evaluate_every_steps to 1 or more"
            )
        optimizer = self.optimizer
        if self.offload_while_sampling and (optimizer.zero_stage != 3 or optimizer.offload or self.staleness):
            raise ValueError(
                "rl.offload_while_sampling needs rl.optimizer.zero_stage = 3, rl.optimizer.offload = false (it keeps "
                "the states in the host's memory for good) and rl.staleness = 0; set it to false, or those"
            )
        if self.staleness and not self.importance_cap:
            raise ValueError(
                f"rl.staleness = {self.staleness} with rl.importance_cap = 0: samples of older weights need importance "
                "weights; set rl.importance_cap to 2"
            )
        if self.update_in_flight and not self.staleness:
            raise ValueError(
                "rl.update_in_flight = true with rl.staleness = 0: nothing is in flight when weights change; set "
                "rl.staleness to 1 or more"
            )
        if self.resample_attempts > 1 and not self.drop_equal_rewards:
            raise ValueError(
                "rl.resample_attempts > 1 replaces the groups that rl.drop_equal_rewards leaves out: set that to true"
            )
        if self.resample_format_penalty and not self.resample_on_correct:
            raise ValueError(
                "rl.resample_format_penalty needs rl.resample_on_correct, whose choice it affects: set that to true"
            )
        if self.resample_on_correct and self.samples_per_prompt == 1:
            raise ValueError(
                "rl.resample_on_correct chooses within a group: set rl.samples_per_prompt to 2 or more"
            )
        return self
