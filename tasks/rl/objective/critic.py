"""PPO's critic: a value for each sampled token, advantages by GAE over sampled tokens only, a clipped value loss.

The value of token t is that of the state before it, so it is read at the same position as its log-prob. Interpreter
tokens are not the policy's actions: they have neither value nor advantage, and GAE steps from one sampled token to the
next as if they were neighbours. Sources: GAE arXiv 1506.02438, value clipping as in PPO's reference implementation.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from tasks.shared.config import OptimizerConfig
from tasks.shared.learning.engine import Engine
from tasks.shared.learning.logprobs import scatter_targets, target_states
from tasks.shared.learning.packing import PackedBatch


class ValueModel(nn.Module):
    """A causal language model's body with one output a token. The head starts at 0, so the first values are 0."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = cast("PreTrainedModel", model.base_model)  # without the output head
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, bias=False, dtype=model.dtype)
        nn.init.zeros_(self.head.weight)

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """(B, T) float32 values of the states before each target token; 0 elsewhere."""
        return scatter_targets(batch, self.head(target_states(self.model, batch)).float().squeeze(-1))


class CriticEngine(Engine):
    """The critic under DeepSpeed: its own weights, optimizer and state."""

    def __init__(self, model: PreTrainedModel, config: OptimizerConfig, *, total_steps: int) -> None:
        """`model`: a causal language model with the weights of the policy's checkpoint, not shared with the policy."""
        super().__init__(ValueModel(model), model, config, total_steps=total_steps)

    def values(self, batch: PackedBatch) -> torch.Tensor:
        """(B, T) float32 values of the states before each target token; 0 elsewhere; under `torch.no_grad()` too."""
        return self._deepspeed(batch.to(self.device))


def gae(
    rewards: np.ndarray, values: np.ndarray, loss_mask: np.ndarray, gamma: float = 1.0, lam: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns of one finished trajectory, (R,) each, 0 where not sampled.

    Over the sampled tokens t = 0 .. n-1, with V_n = 0 since the trajectory ends there:
    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  return_t = A_t + V_t.

    Args:
        rewards: (R,) the reward at each token; the outcome's is at the last sampled one.
        values: (R,) the critic's values.
        loss_mask: (R,) bool, True where the policy chose the token.

    Raises:
        AssertionError: a reward on a token that was not sampled, for which no action would get credit.
    """
    assert not rewards[~loss_mask].any(), "a reward on a token that the policy did not choose"
    reward, value = rewards[loss_mask], values[loss_mask]
    delta = reward + gamma * np.append(value[1:], 0.0) - value
    advantage = np.zeros(len(delta))
    following = 0.0
    for t in reversed(range(len(delta))):
        following = delta[t] + gamma * lam * following
        advantage[t] = following
    advantages, returns = np.zeros(len(rewards)), np.zeros(len(rewards))
    advantages[loss_mask] = advantage
    returns[loss_mask] = advantage + value
    return advantages, returns


def whiten(advantages: Sequence[np.ndarray], loss_masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Advantages (R_i,) of several trajectories with mean 0 and deviation 1 over the tokens of all masks (R_i,).

    (A - mean) / (deviation + 1e-8), the deviation over n; 0 outside the masks. As verl does for GAE.
    """
    chosen = np.concatenate([values[mask] for values, mask in zip(advantages, loss_masks, strict=True)])
    if not len(chosen):
        return [np.zeros_like(values) for values in advantages]
    mean, deviation = chosen.mean(), chosen.std() + 1e-8
    return [
        np.where(mask, (values - mean) / deviation, 0.0)
        for values, mask in zip(advantages, loss_masks, strict=True)
    ]


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    loss_mask: torch.Tensor,
    denominator: float,
    clip: float = 0.2,
) -> torch.Tensor:
    """0.5 max((V - R)^2, (clip(V, V_old +- clip) - R)^2), summed over `loss_mask` (B, T), divided by `denominator`.

    The caller's denominator is the number of target tokens of the whole step over all ranks. A `clip` of 0 leaves the
    second term out. The maximum makes the loss pessimistic: clipping never lowers the error.
    """
    errors = (values - returns) ** 2
    if clip:
        clipped = torch.clamp(values, old_values - clip, old_values + clip)
        errors = torch.maximum(errors, (clipped - returns) ** 2)
    return 0.5 * (errors * loss_mask).sum() / denominator


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 - Var(returns - values) / Var(returns) over (N,) sampled tokens; 0 where all returns are equal."""
    spread = float(np.var(returns))
    return 1.0 - float(np.var(returns - values)) / spread if spread > 0 else 0.0
