"""LoRA (arXiv 2106.09685): low-rank adapters in a model, the merged weights, and the adapters' files.

    W' = W + (alpha / rank) B A        A (rank, in) random, B (out, rank) 0 at the start; W stays as it is

PEFT puts the adapters into the model in place, so it stays the Transformers model that trainer, head and check know.
Without the adapters the model is its base, so the KL term needs no second model as its reference. If the base is in
four bits (four_bits.py), W is the unpacked weight, here as in training.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.config import LoraConfig
from tasks.shared.learning.four_bits import FourBitLinear, pack_linear_layers

NAME = "default"  # PEFT's, of the one adapter
BASE_LAYER = ".base_layer."
FACTORS = (f".lora_A.{NAME}.", f".lora_B.{NAME}.")
SEED = 0  # of the random factors, which are equal in every process


def add_adapters(model: PreTrainedModel, config: LoraConfig) -> None:
    """Freeze `model` and add trainable adapters to it; its output is unchanged until they are trained.

    With `base` = nf4 its linear layers are packed into four bits first. Raises ValueError for targets that the model
    does not have, and for nf4 without bitsandbytes.
    """
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    if config.base == "nf4":
        pack_linear_layers(model)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            inject_adapter_in_model(_peft_config(config), model)
    except ValueError as error:
        linear = sorted(
            {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        )
        raise ValueError(
            f"optimizer.lora.targets = {config.targets}: model type '{model.config.model_type}' has no such layers; "
            f"it has {', '.join(linear)}"
        ) from error


def save_adapters_alone(module: nn.Module) -> None:
    """Exclude the base, which has its own checkpoint, from the state of `module`.

    DeepSpeed leaves out frozen weights, but not under the second name of a tied weight.
    """

    def leave_base_out(_: nn.Module, state: dict[str, torch.Tensor], prefix: str, __: object) -> None:
        for name in [name for name in state if not any(factor in name for factor in FACTORS)]:
            del state[name]

    module.register_state_dict_post_hook(leave_base_out)


class FullWeight(NamedTuple):
    """A weight with its adapters added, under the name that it has in the base."""

    name: str
    # from which `whole` computes it; gather partitioned ones first
    parameters: list[nn.Parameter]
    whole: Callable[[], torch.Tensor]


def full_weights(model: PreTrainedModel) -> Iterator[FullWeight]:
    """Every weight, tied ones under each name."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if any(factor in name for factor in FACTORS):
            continue
        layer, adapted, rest = name.partition(BASE_LAYER)
        owner = model.get_submodule(name.rpartition(".")[0])
        whole: Callable[[], torch.Tensor] = parameter.detach
        if isinstance(owner, FourBitLinear) and parameter is owner.weight:
            whole = owner.whole
        if adapted and rest == "weight":
            module = model.get_submodule(layer)
            factors = _factors(module)
            yield FullWeight(f"{layer}.{rest}", [parameter, *factors], partial(_sum, whole, module))
        else:
            yield FullWeight(f"{layer}.{rest}" if adapted else name, [parameter], whole)


def adapter_weights(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """The adapters' own parameters, named as in PEFT's files."""
    for name, parameter in model.named_parameters():
        if any(factor in name for factor in FACTORS):
            yield f"base_model.model.{name.replace(f'.{NAME}.', '.')}", parameter


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model computes as its base."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        # Not PEFT's `enable_adapters`: it also takes the gradient from their parameters, and DeepSpeed's hooks with it.
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def save_adapter(
    weights: Mapping[str, torch.Tensor], config: LoraConfig, base: ArtifactRef, directory: Path
) -> None:
    """Write PEFT's files, for PEFT and vLLM; they name the base by its location in the store and its digest."""
    from safetensors.torch import save_file

    save_file(dict(weights), directory / "adapter_model.safetensors", metadata={"format": "pt"})
    peft_config = _peft_config(config)
    peft_config.base_model_name_or_path, peft_config.revision = base.location, base.digest
    # Layers by name, because PEFT would write a set, whose order changes from process to process.
    peft_config.target_modules = None
    written = peft_config.to_dict() | {
        "peft_type": "LORA",
        "inference_mode": True,
        "target_modules": sorted({name.split(".")[-3] for name in weights}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True, default=str))


def _peft_config(config: LoraConfig):  # type: ignore[no-untyped-def] # PEFT takes a second to import
    from peft import LoraConfig as PeftLoraConfig
    from peft import TaskType

    targets = config.targets if config.targets == "all-linear" else list(config.targets)
    return PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=targets,
        lora_dropout=0.0,  # would make log-probs random
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )


def _factors(module: nn.Module) -> list[nn.Parameter]:
    return [module.lora_A[NAME].weight, module.lora_B[NAME].weight]  # type: ignore[index, union-attr]


@torch.no_grad()
def _sum(base: Callable[[], torch.Tensor], module: nn.Module) -> torch.Tensor:
    """W + (alpha / rank) B A, added in float32, in the precision of W, which `base` returns."""
    weight = base()
    first, second = _factors(module)
    product = module.scaling[NAME] * (second.float() @ first.float())  # type: ignore[index]
    if module.fan_in_fan_out:  # GPT-2's layers have their weights transposed
        product = product.T
    return (weight.float() + product).to(weight.dtype)
