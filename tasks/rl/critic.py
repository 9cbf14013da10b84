"""PPO's critic within a step: values of the trajectories, advantages from them, then the critic's update."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tasks.rl.experience import Experience
from tasks.rl.objective.critic import CriticEngine, explained_variance, gae, value_loss, whiten
from tasks.rl.update import mini_batches_of, of_response, train_sequence
from tasks.shared.config import RlConfig
from tasks.shared.contract.stage import Value
from tasks.shared.learning.distributed import from_first_rank, gather_to_first_rank, sum_over_ranks
from tasks.shared.learning.packing import PackedBatch, TrainSequence
from tasks.shared.traces.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Values:
    """The critic's values for each of the N trajectories of a step, (R,) each; all 0 for outages."""

    values: tuple[np.ndarray, ...]
    advantages: tuple[np.ndarray, ...]  # by GAE, before whitening
    returns: tuple[np.ndarray, ...]


class CriticUpdate:
    """Values and updates of one critic. It learns from every trajectory except outages, because all have a reward."""

    def __init__(self, engine: CriticEngine, config: RlConfig) -> None:
        self._engine = engine
        self._config = config

    def evaluate(self, experience: Experience) -> Values:
        """Values by the critic as it is now, and GAE with the reward at the last sampled token."""
        values = self._values(experience)
        advantages, returns = [], []
        for row, outage, value in zip(experience.graded, experience.outage, values, strict=True):
            loss_mask = np.array(row.trajectory.loss_mask, dtype=bool)
            rewards = np.zeros(len(loss_mask))
            if not outage:
                rewards[np.flatnonzero(loss_mask)[-1]] = row.reward
            pair = gae(
                rewards, value, loss_mask & ~outage, self._config.critic.gamma, self._config.critic.lam
            )
            advantages.append(pair[0])
            returns.append(pair[1])
        return Values(tuple(values), tuple(advantages), tuple(returns))

    def update(self, experience: Experience, evaluated: Values, seed: int) -> dict[str, Value]:
        """`mini_batches` optimizer steps, in an order drawn from `seed`; the critic's metrics.

        The loss is the mean over the sampled tokens of a mini-batch, over all ranks.
        """
        learning_rate = self._engine.learning_rate
        losses, norms = [], []
        for part in mini_batches_of(np.flatnonzero(~experience.outage), self._config.mini_batches, seed):
            trajectories = [experience.graded[i].trajectory for i in part]
            sequences = [
                _with_extras(t, value=evaluated.values[i], returned=evaluated.returns[i])
                for t, i in zip(trajectories, part, strict=True)
            ]
            denominator = from_first_rank(sum(t.num_sampled for t in trajectories))
            loss = 0.0
            for row in self._rows(sequences):
                share = self._loss(row.to(self._engine.device), denominator)
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

    def _loss(self, row: PackedBatch, denominator: int) -> torch.Tensor:
        return value_loss(
            self._engine.values(row),
            row.extras["value"],
            row.extras["returned"],
            row.loss_mask,
            denominator,
            self._config.critic.value_clip,
        )

    def _values(self, experience: Experience) -> list[np.ndarray]:
        """(R,) values of each trajectory, 0 where not sampled, in the first rank; each computes its share."""
        chosen = np.flatnonzero(~experience.outage)
        found: list[tuple[int, np.ndarray]] = []
        with torch.no_grad():
            for row in self._rows([_with_extras(experience.graded[i].trajectory) for i in chosen]):
                parts = row.split(self._engine.values(row).cpu())  # by all ranks, as ZeRO-3 needs
                if row.num_loss_tokens:  # a row that fills in for a rank without sequences has none
                    found += [(place, values.double().numpy()) for place, values in parts]
        result = [np.zeros(len(row.trajectory.response_ids)) for row in experience.graded]
        for place, values in gather_to_first_rank(found):
            index = chosen[place]
            result[index] = values[len(experience.graded[index].trajectory.prompt_ids) :]
        return result

    def _rows(self, sequences: Sequence[TrainSequence]) -> list[PackedBatch]:
        """This rank's packed rows."""
        return self._engine.dealt_rows(sequences, self._config.tokens_per_micro_batch)


def with_advantages(experience: Experience, evaluated: Values, whitened: bool) -> Experience:
    """The experience with an advantage a token; for the record, `advantages` is then their mean over sampled tokens.

    Whitened over every row that counts in a baseline, as GRPO's groups are; what is not in the loss is masked there.
    """
    masks = [np.array(row.trajectory.loss_mask, dtype=bool) for row in experience.graded]
    tokens = list(evaluated.advantages)
    if whitened and tokens:
        valid = (~experience.outage & ~experience.dropped).tolist()
        tokens = whiten(tokens, [mask & kept for mask, kept in zip(masks, valid, strict=True)])
    means = [values[mask].mean() if mask.any() else 0.0 for values, mask in zip(tokens, masks, strict=True)]
    return replace(experience, advantages=np.array(means), token_advantages=tuple(tokens))


def _with_extras(trajectory: Trajectory, **extras: np.ndarray) -> TrainSequence:
    """A trajectory whose `extras` are given for the response alone."""
    sequence = train_sequence(trajectory, 0.0, 0.0)
    num_prompt = len(trajectory.prompt_ids)
    named = {name: of_response(values, num_prompt) for name, values in extras.items()}
    return TrainSequence(sequence.ids, sequence.loss_mask, named)


def _of_sampled_tokens(experience: Experience, evaluated: Values) -> dict[str, Value]:
    """How good the values were before the update; None without a sampled token."""
    kept = np.flatnonzero(~experience.outage)
    masks = {i: np.array(experience.graded[i].trajectory.loss_mask, dtype=bool) for i in kept}
    values = np.concatenate([evaluated.values[i][masks[i]] for i in kept]) if len(kept) else np.zeros(0)
    returns = np.concatenate([evaluated.returns[i][masks[i]] for i in kept]) if len(kept) else np.zeros(0)
    known = bool(len(values))
    return {
        "value_mean": float(values.mean()) if known else None,
        "return_mean": float(returns.mean()) if known else None,
        "explained_variance": explained_variance(values, returns) if known else None,
    }
