"""Copies parameters by name into a model; no tensor may be missed, and tied ones must agree."""

from collections.abc import Iterable

import torch


@torch.no_grad()
def load_by_name(model: torch.nn.Module, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Copy every named tensor into the model's tensor of that name.

    Tied tensors may come under one of their names or under all. Raises ValueError, naming tensors, for a name or shape
    that the model lacks, a tensor that is missing under all of its names, or tied names with different values.
    """
    targets = model.state_dict()  # the live tensors; tied ones under each of their names
    seen: dict[int, str] = {}
    for name, tensor in weights:
        target = targets.get(name)
        if target is None or target.shape != tensor.shape:
            found = "no such tensor" if target is None else f"shape {tuple(target.shape)}"
            raise ValueError(f"weight sync: '{name}' {tuple(tensor.shape)}: the sampler has {found}")
        source = tensor.detach().to(device=target.device, dtype=target.dtype)
        first = seen.setdefault(target.data_ptr(), name)
        if first != name and not torch.equal(target, source):
            raise ValueError(
                f"weight sync: '{first}' and '{name}' are tied in the sampler but came with different values"
            )
        target.copy_(source)
    missing = sorted(name for name, target in targets.items() if target.data_ptr() not in seen)
    if missing:
        raise ValueError(f"weight sync: nothing came for {', '.join(missing[:5])} ({len(missing)} tensors)")


def differing_names(model: torch.nn.Module, weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Names whose tensor in the model is missing or is not the given one, in the model's precision."""
    targets = model.state_dict()
    return [
        name
        for name, tensor in weights
        if name not in targets
        or not torch.equal(targets[name], tensor.detach().to(targets[name].device, targets[name].dtype))
    ]
