"""The policy update: trajectories in the loss become packed rows, rows become gradients, gradients a step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from tasks.rl.config import RlConfig
from tasks.rl.experience import Experience
from tasks.rl.objective.losses import PolicySums, PolicyTokens, policy_loss, token_weights
from tasks.rl.staleness import sums_by_age, token_ages
from tasks.shared.learning.distributed import from_first_rank, max_over_ranks, sum_over_ranks
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.logprobs import token_logprobs
from tasks.shared.learning.packing import PackedBatch, PerToken, TrainSequence
from tasks.shared.traces.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """The optimizer steps of one RL step, over all ranks."""

    sums: PolicySums  # over mini-batches; the loss is the mean over them
    # before clipping, the mean of those that are finite; None if there is none
    grad_norm: float | None
    learning_rate: float
    num_updates: int  # optimizer steps: 0 if nothing was in the loss, or while the critic warms up
    num_skipped: int  # mini-batches skipped because of their gradient
    tokens: int  # that went through the trainer, prompts and feedback included; in the first rank
    by_age: np.ndarray | None = None  # `sums_by_age` of the tokens in the loss, with rl.staleness


class PolicyInputs(NamedTuple):
    """What the policy loss needs of each token beside the model's own scores; 0 in the prompt."""

    sampler_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor  # from `token_weights`
    ages: torch.Tensor  # from `token_ages`


class PolicyUpdate:
    """Updates of one policy."""

    def __init__(
        self,
        engine: TrainingEngine,
        config: RlConfig,
        reference: PreTrainedModel | None,
        max_response_tokens: int,
    ) -> None:
        self._engine = engine
        self._config = config
        self._reference = reference.to(engine.device) if reference is not None else None  # type: ignore[arg-type]
        # The denominator of the constant reduction: the most tokens that a mini-batch's share could hold.
        trajectories = config.prompts_per_step * config.samples_per_prompt
        self._most_tokens = trajectories * max_response_tokens / config.mini_batches

    def update(self, experience: Experience, seed: int, learn: bool = True, step: int = 0) -> UpdateResult:
        """`mini_batches` optimizer steps over the trajectories in the loss, in an order drawn from `seed`.

        The first rank has the experience and deals the rows out, so that one rank and several agree. `step`: RL steps
        done before, for the ages of tokens. Without `learn` the sums are computed and the policy does not change.
        """
        chosen = np.flatnonzero(experience.in_loss)
        parts = mini_batches_of(chosen, self._config.mini_batches, seed)
        # The proximal policy is the one before the first optimizer step.
        batches = [self._rows(experience, part, step, keep_old=len(parts) > 1) for part in parts]
        self._by_age = np.zeros((3, self._config.staleness + 1))
        learning_rate = self._engine.learning_rate
        sums, norms, num_skipped = [], [], 0
        for rows in batches:
            for row, old_logprobs in rows:
                with torch.set_grad_enabled(learn):
                    loss, row_sums = self._loss(row, old_logprobs)
                sums.append(row_sums)
                if learn:
                    self._engine.backward(loss)
            if learn:
                norms.append(self._engine.step())
                num_skipped += self._engine.skipped
        total = _total(sums)
        finite = [norm for norm in norms if math.isfinite(norm)]
        return UpdateResult(
            sums=replace(total, loss=total.loss / max(1, len(parts))),
            grad_norm=float(np.mean(finite)) if finite else None,
            learning_rate=learning_rate,
            num_updates=len(norms) - num_skipped,
            num_skipped=num_skipped,
            tokens=sum(len(t.prompt_ids) + len(t.response_ids) for t in map(experience.trajectory, chosen)),
            by_age=np.vectorize(sum_over_ranks, [float])(self._by_age) if self._config.staleness else None,
        )

    def _rows(
        self, experience: Experience, part: np.ndarray, step: int, keep_old: bool
    ) -> list[tuple[PackedBatch[PolicyInputs], torch.Tensor | None]]:
        """This rank's packed rows of one mini-batch; with `keep_old`, with log-probs under the current policy."""
        trajectories = [experience.trajectory(i) for i in part]
        weights = token_weights(
            [t.num_sampled for t in trajectories], self._config.reduction, self._most_tokens
        )
        advantages = experience.token_advantages or experience.advantages
        sequences = [
            train_sequence(
                t,
                PolicyInputs,
                sampler_logprobs=t.logprobs,
                advantages=advantages[i],
                weights=weight,
                ages=token_ages(t, step),
            )
            for t, i, weight in zip(trajectories, part, weights, strict=True)
        ]
        rows = self._engine.dealt_rows(sequences, self._config.tokens_per_micro_batch)
        if not keep_old:
            return [(row, None) for row in rows]
        with torch.no_grad():
            return [(row, self._engine.token_logprobs(row, self._config.temperature).cpu()) for row in rows]

    def _loss(
        self, row: PackedBatch[PolicyInputs], old_logprobs: torch.Tensor | None
    ) -> tuple[torch.Tensor, PolicySums]:
        """The loss of a row and its sums; `old_logprobs`: of the proximal policy, None while that is the policy."""
        temperature = self._config.temperature
        row = row.to(self._engine.device)
        scores = self._engine.token_scores(row, temperature, with_entropy=True)
        old_logprobs = scores.logprobs.detach() if old_logprobs is None else old_logprobs.to(row.ids.device)
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference = token_logprobs(self._reference, row, temperature)
        elif self._config.kl_coefficient:  # the base of the adapters
            reference = self._engine.base_logprobs(row, temperature)
        assert scores.entropy is not None
        tokens = PolicyTokens(
            logprobs=scores.logprobs,
            old_logprobs=old_logprobs,
            sampler_logprobs=row.per_token.sampler_logprobs,
            advantages=row.per_token.advantages,
            weights=row.per_token.weights,
            loss_mask=row.loss_mask,
            reference_logprobs=reference,
            entropy=scores.entropy,
            segments=row.segment_ids,
        )
        if self._config.staleness:
            log_importance = (tokens.old_logprobs - tokens.sampler_logprobs)[tokens.loss_mask]
            ages = row.per_token.ages[tokens.loss_mask]
            self._by_age += sums_by_age(log_importance.detach(), ages, self._config.staleness)
        return policy_loss(tokens, self._config)


def mini_batches_of(chosen: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """The chosen rows in up to `count` parts of nearly the same size, none empty, in an order drawn from `seed`.

    The other ranks have no rows, and get as many empty parts as the first has parts.
    """
    if count > 1:
        chosen = np.random.Generator(np.random.Philox(seed)).permutation(chosen)
    parts = [part for part in np.array_split(chosen, count) if len(part)]
    return parts + [chosen] * (from_first_rank(len(parts)) - len(parts))


def train_sequence(
    trajectory: Trajectory, kind: Callable[..., PerToken], **values: float | Sequence[float] | np.ndarray
) -> TrainSequence[PerToken]:
    """A trajectory as training sees it: ids and mask exactly as sampled, and a record of the given kind.

    `values`: the fields of the record, (R,) each, or one number for the whole response; 0 in the prompt.
    """
    prompt, length = len(trajectory.prompt_ids), len(trajectory.prompt_ids) + len(trajectory.response_ids)
    fields = {name: np.zeros(length, np.float32) for name in values}
    for name, field in fields.items():
        field[prompt:] = values[name]
    return TrainSequence(
        ids=np.append(trajectory.prompt_ids, trajectory.response_ids).astype(np.int32),
        loss_mask=np.append(np.zeros(prompt, dtype=bool), np.array(trajectory.loss_mask, dtype=bool)),
        per_token=kind(**{name: torch.from_numpy(field) for name, field in fields.items()}),
    )


def _total(parts: Sequence[PolicySums]) -> PolicySums:
    """Sums over rows and ranks; `gap_max` is a maximum."""
    names = [name for name in PolicySums.__dataclass_fields__ if name != "gap_max"]
    rows = [asdict(part) for part in parts]
    totals = {name: sum_over_ranks(float(sum(row[name] for row in rows))) for name in names}
    return PolicySums(**totals, gap_max=max_over_ranks(max((row["gap_max"] for row in rows), default=0.0)))


def named_sums(sums: PolicySums) -> dict[str, float | None]:
    """The means over tokens, by metric name; None, not 0, if no token was in the loss."""
    summed = {
        "entropy": sums.entropy,
        "kl_old": sums.kl_old,
        "kl_reference": sums.kl_reference,
        "clip_fraction": sums.clipped,
        "capped_fraction": sums.capped,
        "masked_fraction": sums.masked,
        "gap_mean": sums.gap,
        "gap_kl": sums.gap_kl,
    }
    means = {name: total / sums.tokens if sums.tokens else None for name, total in summed.items()}
    whole = {"loss": sums.loss, "gap_max": sums.gap_max}
    return means | (whole if sums.tokens else dict.fromkeys(whole))
