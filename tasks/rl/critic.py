"""PPO's critic within a step: values of the trajectories, advantages from them, then the critic's update."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from tasks.rl.config import RlConfig
from tasks.rl.experience import Experience
from tasks.rl.objective.critic import CriticEngine, explained_variance, gae, value_loss, whiten
from tasks.rl.update import mini_batches_of, train_sequence
from tasks.shared.contract.stage import Value
from tasks.shared.learning.distributed import from_first_rank, gather_to_first_rank, sum_over_ranks
from tasks.shared.learning.packing import PackedBatch, PerToken, TrainSequence
from tasks.shared.traces.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Values:
    """The critic's values for each of the N trajectories of a step, (R,) each; all 0 for outages."""

    values: tuple[np.ndarray, ...]
    advantages: tuple[np.ndarray, ...]  # by GAE, before whitening
    returns: tuple[np.ndarray, ...]


class ValueInputs(NamedTuple):
    """What the value loss needs of each token; 0 in the prompt."""

    old_values: torch.Tensor
    returns: torch.Tensor


class CriticUpdate:
    """Values and updates of one critic. It learns from every trajectory except outages, because all have a reward."""

    def __init__(self, engine: CriticEngine, config: RlConfig) -> None:
        self._engine = engine
        self._config = config

    def evaluate(self, experience: Experience) -> Values:
        """Values by the current critic, and GAE with the reward at the last sampled token."""
        values = self._values(experience)
        advantages, returns = [], []
        for row, outage, value in zip(experience.graded, experience.outage, values, strict=True):
            loss_mask = _mask(row.trajectory)
            rewards = np.zeros(len(loss_mask))
            if not outage:
                rewards[np.flatnonzero(loss_mask)[-1]] = row.reward
            critic = self._config.critic
            advantage, returned = gae(rewards, value, loss_mask & ~outage, critic.gamma, critic.lam)
            advantages.append(advantage)
            returns.append(returned)
        return Values(tuple(values), tuple(advantages), tuple(returns))

    def update(self, experience: Experience, evaluated: Values, seed: int) -> dict[str, Value]:
        """`mini_batches` optimizer steps, in an order drawn from `seed`; the critic's metrics.

        The loss is the mean over the sampled tokens of a mini-batch, over all ranks.
        """
        learning_rate = self._engine.learning_rate
        losses, norms = [], []
        for part in mini_batches_of(np.flatnonzero(~experience.outage), self._config.mini_batches, seed):
            trajectories = [experience.trajectory(i) for i in part]
            sequences = [
                train_sequence(t, ValueInputs, old_values=evaluated.values[i], returns=evaluated.returns[i])
                for t, i in zip(trajectories, part, strict=True)
            ]
            denominator = from_first_rank(sum(t.num_sampled for t in trajectories))
            loss = 0.0
            for row in self._rows(sequences):
                row = row.to(self._engine.device)
                share = value_loss(
                    self._engine.values(row),
                    row.per_token.old_values,
                    row.per_token.returns,
                    row.loss_mask,
                    denominator,
                    self._config.critic.value_clip,
                )
                self._engine.backward(share)
                loss += float(share.detach())
            losses.append(sum_over_ranks(loss))
            norms.append(self._engine.step())
        return {
            "value_loss": float(np.mean(losses)) if losses else None,
            "critic_grad_norm": float(np.mean(norms)) if norms else None,
            "critic_learning_rate": learning_rate,
            "critic_updates": len(norms),
            **_of_sampled_tokens(experience, evaluated),
        }

    def _values(self, experience: Experience) -> list[np.ndarray]:
        """(R,) values of each trajectory, 0 where not sampled, in the first rank; each rank computes its share."""
        chosen = np.flatnonzero(~experience.outage)
        found: list[tuple[int, np.ndarray]] = []
        with torch.no_grad():
            for row in self._rows([train_sequence(experience.trajectory(i), tuple) for i in chosen]):
                parts = row.split(self._engine.values(row).cpu())  # in every rank, for ZeRO-3
                if row.num_loss_tokens:  # a row that fills in for a rank without sequences has none
                    found += [(place, values.double().numpy()) for place, values in parts]
        result = [np.zeros(len(row.trajectory.response_ids)) for row in experience.graded]
        for place, values in gather_to_first_rank(found):
            index = chosen[place]
            result[index] = values[len(experience.trajectory(index).prompt_ids) :]
        return result

    def _rows(self, sequences: Sequence[TrainSequence[PerToken]]) -> list[PackedBatch[PerToken]]:
        """This rank's packed rows."""
        return self._engine.dealt_rows(sequences, self._config.tokens_per_micro_batch)


def with_advantages(experience: Experience, evaluated: Values, whitened: bool) -> Experience:
    """The experience with an advantage a token; `advantages`, for the record, are their means over sampled tokens.

    They are whitened over every row that counts in a baseline, like GRPO's groups, whether or not it is in the loss.
    """
    masks = [_mask(row.trajectory) for row in experience.graded]
    tokens = list(evaluated.advantages)
    if whitened and tokens:
        valid = (~experience.outage & ~experience.dropped).tolist()
        tokens = whiten(tokens, [mask & kept for mask, kept in zip(masks, valid, strict=True)])
    means = [values[mask].mean() if mask.any() else 0.0 for values, mask in zip(tokens, masks, strict=True)]
    return replace(experience, advantages=np.array(means), token_advantages=tuple(tokens))


def _of_sampled_tokens(experience: Experience, evaluated: Values) -> dict[str, Value]:
    """The quality of the values before the update; None without a sampled token."""
    masks = {i: _mask(experience.trajectory(i)) for i in np.flatnonzero(~experience.outage)}
    none = [np.zeros(0)]
    values = np.concatenate([evaluated.values[i][mask] for i, mask in masks.items()] or none)
    returns = np.concatenate([evaluated.returns[i][mask] for i, mask in masks.items()] or none)
    known = bool(len(values))
    return {
        "value_mean": float(values.mean()) if known else None,
        "return_mean": float(returns.mean()) if known else None,
        "explained_variance": explained_variance(values, returns) if known else None,
    }


def _mask(trajectory: Trajectory) -> np.ndarray:
    return np.array(trajectory.loss_mask, dtype=bool)
