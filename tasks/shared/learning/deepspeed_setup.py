"""Puts a module under DeepSpeed: its settings, the optimizer, and its output kept off stdout."""

import logging
import sys
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import nn

from tasks.shared.config import OptimizerConfig
from tasks.shared.contract.environment import tell_deepspeed_of_cpu
from tasks.shared.learning.distributed import make_groups_patient
from tasks.shared.learning.guarded import ClippedAdamW, GuardedAdamW

BUCKET_ELEMENTS = 500_000_000  # of gradients that are reduced at once, DeepSpeed's default


def make_deepspeed(module: nn.Module, config: OptimizerConfig, half: bool, plain: bool) -> Any:
    """The engine over `module`: `half` in bfloat16, `plain` without ZeRO."""
    with redirect_stdout(sys.stderr):  # a stage's stdout carries nothing but its events
        if not torch.cuda.is_available():
            tell_deepspeed_of_cpu()
        import deepspeed

        from tasks.shared.learning.weights_only import WeightsOnlyCheckpoints

        _quieten(deepspeed)
        settings = _deepspeed_config(module, config, half, plain)
        # before the partition, after which parameters have no dimensions
        optimizer = _optimizer(module, config, plain)
        if config.zero_stage == 3:
            _partition(module, settings)
        engine = deepspeed.initialize(
            model=module, optimizer=optimizer, config=settings, dist_init_required=False
        )[0]
        make_groups_patient()
        engine.checkpoint_engine = WeightsOnlyCheckpoints(engine._config)
        engine._copy_recovery_script = lambda _: None  # no program belongs among weights
        if not plain:
            # DeepSpeed computes the norm before it calls the optimizer.
            engine.basic_optimizer.norm_of_step = lambda: float(engine.optimizer._global_grad_norm)
        return engine


def _partition(module: nn.Module, settings: dict[str, Any]) -> None:
    """Partition the parameters over the ranks, one at a time as they are moved to the device.

    `deepspeed.initialize` would first move the whole module: 61 GiB of a 32B model beside an engine that samples.
    """
    import deepspeed

    deepspeed.zero.Init(module=module, config_dict_or_path=settings)
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        for buffer in module.buffers():
            buffer.data = buffer.data.to(device)


def _optimizer(module: nn.Module, config: OptimizerConfig, plain: bool) -> torch.optim.Optimizer:
    """AdamW; biases and norms (one dimension) do not decay."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    settings: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "fused": True}
    if plain:
        return ClippedAdamW(groups, config.grad_norm_bound, config.max_grad_norm, **settings)
    return GuardedAdamW(groups, config.grad_norm_bound, **settings)


def _deepspeed_config(module: nn.Module, config: OptimizerConfig, half: bool, plain: bool) -> dict[str, Any]:
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        # ZeRO-3 allocates the whole bucket, however small the model
        "reduce_bucket_size": min(trained, BUCKET_ELEMENTS),
        "overlap_comm": torch.cuda.is_available() and config.zero_stage >= 2,
    }
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # the number of micro-batches varies; step() ends an accumulation
        "gradient_clipping": 0.0 if plain else config.max_grad_norm,
        "bf16": {"enabled": half},
        # Sums of many micro-batches, and of many ranks, lose small gradients in bfloat16.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # torch's own AdamW, with its fused kernel
        "zero_force_ds_cpu_optimizer": False,  # its own has to be compiled; torch's is fused on a CPU too
        "steps_per_print": None,
    }


def _quieten(deepspeed: Any) -> None:
    """DeepSpeed's log goes to stderr, and its shared-memory all-reduce (for inference) is not compiled at start."""
    for handler in deepspeed.utils.logger.handlers:
        if type(handler) is logging.StreamHandler:  # its own; a subclass would be a test runner's
            handler.stream = sys.stderr  # not setStream, which flushes a stream that may be closed
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
