"""Weights in vLLM's worker: repacks the head of a tied model, and computes a digest of every tensor.

The functions run in the worker's process, of the engine in this process and of a pool's servers.
"""

from typing import Any

import torch

CHUNK = 1 << 24  # elements that a digest widens at a time
PRIME = 1_000_003


def refresh_tied_head(worker: Any) -> None:
    """Pack the CPU build's output head again: reloading updates the tied embedding, but not the packed copy."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(worker.model_runner.get_model().lm_head, remove_weight=False)


def fingerprints(worker: Any) -> dict[str, str]:
    """A digest of every parameter, and of each packed copy's output for a fixed input, because copies cannot be read.

    The CPU build empties most parameters once they are packed; a copy of a kept parameter is labelled.
    """
    model = worker.model_runner.get_model()
    found = {name: digest(parameter) for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        packed = getattr(module, "cpu_linear", None)
        if packed is not None:
            width = getattr(module, "input_size_per_partition", None) or module.embedding_dim
            ramp = torch.linspace(-1.0, 1.0, width, dtype=module.weight.dtype)[None]  # (1, in)
            label = " (packed copy)" if module.weight.numel() else ""
            found[f"{name}.weight{label}"] = digest(packed(ramp, module.weight, None))
    return found


def digest(tensor: torch.Tensor) -> str:
    """A checksum of a tensor's bytes and their order, computed on its device, because a sampling step waits for it.

    Two sums modulo 2**64 over its elements as integers, one of them weighted by position: changing one element, or
    swapping two, changes at least one sum. It detects faults; it does not resist deliberate collisions.
    """
    width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    values = tensor.detach().contiguous().view(width).flatten()
    plain = torch.zeros((), dtype=torch.int64, device=values.device)
    placed = torch.zeros_like(plain)
    for first in range(0, values.numel(), CHUNK):
        part = values[first : first + CHUNK].to(torch.int64)
        places = torch.arange(first, first + part.numel(), device=part.device)
        plain += part.sum()
        placed += (part * (places % PRIME + 1)).sum()
    return f"{plain.item() % 2**64:016x}{placed.item() % 2**64:016x}"
