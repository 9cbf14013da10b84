"""AdamW that skips the update when the gradient is not finite or over a bound.

Adam divides by its moments of earlier gradients, so one exploded gradient spoils many later steps, clipped or not. The
norm is that of the whole gradient over all ranks, before clipping.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def is_bad(grad_norm: float, bound: float) -> bool:
    """True for a norm that is not finite, or over the bound; a bound of 0 is none."""
    return not math.isfinite(grad_norm) or 0 < bound < grad_norm


class GuardedAdamW(torch.optim.AdamW):
    """Skips the update when the norm is bad; `norm_of_step` returns DeepSpeed's norm of the current step."""

    def __init__(self, groups: list[dict[str, Any]], bound: float, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._bound = bound
        self.norm_of_step: Callable[[], float] | None = None

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update, unless the norm is bad."""
        if self.norm_of_step is None or not is_bad(self.norm_of_step(), self._bound):
            super().step(closure)


class ClippedAdamW(GuardedAdamW):
    """For float32 without ZeRO: also computes the norm and clips, which DeepSpeed then does not."""

    def __init__(
        self, groups: list[dict[str, Any]], bound: float, max_grad_norm: float, **settings: Any
    ) -> None:
        super().__init__(groups, bound, **settings)
        self.max_grad_norm = max_grad_norm
        self.grad_norm = 0.0
        self.norm_of_step = lambda: self.grad_norm

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Clip, then update, unless the norm is bad."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.grad_norm = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        super().step(closure)
