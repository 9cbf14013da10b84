"""Moves the optimizer's data to host memory while a sampler uses the device. ZeRO-3 only.

DeepSpeed's `offload_states` moves the gradients. It moves master weights and moments only for its own FusedAdam, and
would write its copies into saved states. So they are moved here in the same way: the tensors stay, their data moves.
"""

from collections.abc import Iterator
from typing import Any

import torch


class StepStates:
    """The optimizer states of one DeepSpeed engine. While they are away they can only be saved."""

    def __init__(self, deepspeed_engine: Any) -> None:
        self._deepspeed = deepspeed_engine
        # host copies by the id of their tensor; kept, because pinning takes longer than copying
        self._host: dict[int, torch.Tensor] = {}
        self._away = False

    def put_away(self) -> None:
        """Move master weights, moments and gradients to the host; calling it again changes nothing."""
        from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as Kind

        if self._away:
            return
        on_gpu = torch.cuda.is_available()
        for tensor in self._tensors():
            if id(tensor) not in self._host:
                self._host[id(tensor)] = torch.empty_like(tensor, device="cpu", pin_memory=on_gpu)
            tensor.data = self._host[id(tensor)].copy_(tensor.data)
        # last, because it also returns the freed memory to the device
        self._deepspeed.offload_states(
            include=[Kind.lp_grads, Kind.contiguous_grad_buffer], pin_memory=on_gpu
        )
        self._away = True

    def take_back(self) -> None:
        """Move them back to the device; calling it again changes nothing."""
        if not self._away:
            return
        for tensor in self._tensors():
            tensor.data = tensor.data.to(self._deepspeed.device)
        self._deepspeed.reload_states()
        self._away = False

    def _tensors(self) -> Iterator[torch.Tensor]:
        """Master weights, which ZeRO-3 keeps apart from the model's, and the moments of each."""
        for master, state in self._deepspeed.basic_optimizer.state.items():
            yield master
            yield from (value for value in state.values() if torch.is_tensor(value) and value.dim())
