"""DeepSpeed for SFT and the policy update: takes losses, makes optimizer steps, resumes to the bit on one rank.

    engine = TrainingEngine(model, config, total_steps=100)
    for batch in engine.rows(sequences, row_tokens):
        engine.backward(-engine.token_logprobs(batch).sum() / denominator)
    grad_norm = engine.step()

The caller divides by its own denominator, counted over the whole step and all ranks (`distributed.sum_over_ranks`).
Gradients are summed over micro-batches and ranks, so the result does not depend on how a step is cut. `Engine` is the
base of the policy's `TrainingEngine` and the critic's `CriticEngine` (critic.py).
"""

import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from tasks.shared.config import OptimizerConfig
from tasks.shared.contract.environment import rank, world_size
from tasks.shared.contract.stage import TrainingStopped
from tasks.shared.learning.adapter import (
    FullWeight,
    adapter_weights,
    add_adapters,
    full_weights,
    save_adapters_alone,
    without_adapters,
)
from tasks.shared.learning.deepspeed_setup import make_deepspeed
from tasks.shared.learning.distributed import deal_to_ranks, from_first_rank, start_process_group
from tasks.shared.learning.guarded import is_bad
from tasks.shared.learning.logprobs import TokenHead, TokenScores, token_scores, use_packed_attention
from tasks.shared.learning.own_forward import (
    eager_attention,
    has_recurrent_state,
    plain_logprobs,
    require_own_forward,
    sample_sequences,
)
from tasks.shared.learning.packing import PackedBatch, PerToken, TrainSequence, lay_out, make_row, pack
from tasks.shared.learning.put_away import StepStates
from tasks.shared.learning.saved import add_sums, checkpoints_in, is_whole, remove_others, require_files

GATHERED_BYTES = 1 << 30  # of whole tensors on the device beside the shards, while weights are exported


def learning_rate_at(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0): linear warm-up, then constant or cosine decay to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class PackedModel(nn.Module):
    """The module that DeepSpeed wraps: its forward pass is `token_scores`, so ZeRO-3 sees one root module."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.head = TokenHead(model)

    def forward(
        self, batch: PackedBatch, temperature: float, with_entropy: bool, plain: bool = False
    ) -> TokenScores:
        """See `token_scores`; with `plain`, the scores of every token of a one-sequence row by the model's own pass."""
        if plain:
            return TokenScores(plain_logprobs(self.model, batch.ids[0].tolist())[None], None)
        return token_scores(self.model, batch, temperature, with_entropy, self.head)


class Engine:
    """A module under DeepSpeed. All ranks call every method alike."""

    def __init__(
        self, module: nn.Module, model: PreTrainedModel, config: OptimizerConfig, *, total_steps: int
    ) -> None:
        """`module` is run and trained; `model` is the Transformers model in it."""
        start_process_group()
        use_packed_attention(model)
        self._one_a_row = has_recurrent_state(model)
        self.num_steps = 0  # optimizer steps done, skipped ones included
        self.skipped = False  # the last step was skipped: its gradient was not finite, or over the bound
        self._root = module
        self._config = config
        self._total_steps = total_steps
        half = model.dtype == torch.bfloat16
        assert not (half and config.zero_stage == 0), "refused by the configuration"
        if config.gradient_checkpointing:
            _checkpoint_layers(model)
        self._plain = config.zero_stage == 0
        self._deepspeed = make_deepspeed(module, config, half, self._plain)
        self.device: torch.device = self._deepspeed.device
        self.states = StepStates(self._deepspeed)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return learning_rate_at(self._config, self.num_steps, self._total_steps)

    def rows(
        self, sequences: Sequence[TrainSequence[PerToken]], row_tokens: int
    ) -> list[PackedBatch[PerToken]]:
        """This rank's packed rows; every rank has equally many."""
        return pack(sequences, row_tokens, world_size(), self._one_a_row)[rank() :: world_size()]

    def dealt_rows(
        self, sequences: Sequence[TrainSequence[PerToken]], row_tokens: int
    ) -> list[PackedBatch[PerToken]]:
        """This rank's packed rows of the first rank's sequences, equal to those of `rows`; the others pass none.

        No rank holds more than its own rows; the first also holds one deal for all ranks at a time.
        """
        lengths, ranks = [len(sequence.ids) for sequence in sequences], world_size()
        layouts = lay_out(lengths, row_tokens, ranks, self._one_a_row) if rank() == 0 else []
        return [
            deal_to_ranks([make_row(sequences, layout) for layout in layouts[first : first + ranks]])
            for first in range(0, from_first_rank(len(layouts)), ranks)
        ]

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of this micro-batch's share of the loss, a scalar already divided by the denominator."""
        # DeepSpeed averages over ranks; the denominator counts all ranks, so the gradient has to be the sum.
        self._deepspeed.backward(loss * dist.get_world_size())

    def step(self) -> float:
        """Clip, update, clear the gradient; return the gradient's norm over all ranks before clipping.

        A gradient that is not finite or over `grad_norm_bound` changes no weight: as the recipe says, the step is
        skipped or TrainingStopped is raised.
        """
        for group in self._deepspeed.basic_optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._deepspeed.step()
        plain = self._deepspeed.basic_optimizer
        grad_norm = float(plain.grad_norm if self._plain else self._deepspeed.get_global_grad_norm())
        self.skipped = is_bad(grad_norm, self._config.grad_norm_bound)
        if self.skipped and self._config.on_bad_gradient == "stop":
            bound = self._config.grad_norm_bound
            raise TrainingStopped(
                f"optimizer step {self.num_steps + 1}: the gradient's norm is {grad_norm:g}"
                + (f", over optimizer.grad_norm_bound = {bound:g}" if math.isfinite(grad_norm) else "")
                + "; nothing was changed. Lower optimizer.learning_rate, or skip such steps with "
                "optimizer.on_bad_gradient = 'skip'"
            )
        self.num_steps += 1
        return grad_norm

    def save(self, directory: Path, state: Mapping[str, Any]) -> bool:
        """Write a checkpoint to resume from (weights, optimizer, random state, `state`), then remove older ones.

        Each rank writes its part and continues. Returns True in the ranks that found all parts written. Only then is
        the checkpoint used, so a kill before that leaves the one before.
        """
        target = directory / f"step-{self.num_steps}"
        if dist.get_rank() == 0:
            # a critic's part may be left of a save that was killed before the policy's part
            shutil.rmtree(target, ignore_errors=True)
        dist.barrier()
        client = {"num_steps": self.num_steps, "random": _random_state(), "state": dict(state)}
        files = self._deepspeed.checkpoint_engine
        files.sums.clear()
        with redirect_stdout(sys.stderr):
            self._deepspeed.save_checkpoint(
                str(directory),
                tag=target.name,
                client_state=client,
                save_latest=False,
                exclude_frozen_parameters=self._config.lora is not None,  # the base is in its own checkpoint
            )
        add_sums(target, files.sums, dist.get_rank(), dist.get_world_size())
        if whole := is_whole(target):
            remove_others(target)
        return whole

    def resume(self, directory: Path) -> dict[str, Any] | None:
        """Load the last complete checkpoint in `directory`; return the `state` given to `save`, or None without one.

        Runs no code in it. ValueError for a damaged file, or one that holds more than tensors and numbers.
        """
        found = checkpoints_in(directory)
        if not found:
            return None
        require_files(found[max(found)])
        self._deepspeed.checkpoint_engine.checked.clear()
        with redirect_stdout(sys.stderr):
            path, client = self._deepspeed.load_checkpoint(
                str(directory),
                tag=found[max(found)].name,
                load_lr_scheduler_states=False,
                load_module_strict=self._config.lora is None,
            )
        assert path is not None
        self.num_steps = client["num_steps"]
        _set_random_state(client["random"])
        return client["state"]


class TrainingEngine(Engine):
    """A causal language model under DeepSpeed: SFT's, and RL's policy."""

    def __init__(self, model: PreTrainedModel, config: OptimizerConfig, *, total_steps: int) -> None:
        if config.lora is not None:
            add_adapters(model, config.lora)
        packed = PackedModel(model)
        if config.lora is not None:
            save_adapters_alone(packed)
        super().__init__(packed, model, config, total_steps=total_steps)
        self.module = model  # under ZeRO-3 its parameters are partitioned
        if config.zero_stage == 3:
            import deepspeed

            # parameters of another module, which ZeRO-3 has to gather for the head
            for parameter in packed.head.weights:
                deepspeed.zero.register_external_parameter(packed.head, parameter)
        remedy = "use a model of another architecture"
        if model.config._attn_implementation != "eager":
            remedy = f"set model.attention = 'eager', or {remedy}"
        require_own_forward(model, "packed rows", remedy, self._both_ways)

    def token_scores(
        self, batch: PackedBatch, temperature: float = 1.0, with_entropy: bool = False
    ) -> TokenScores:
        """`logprobs.token_scores` of the trained model; under `torch.no_grad()` too."""
        return self._deepspeed(batch.to(self.device), temperature, with_entropy)

    def token_logprobs(self, batch: PackedBatch, temperature: float = 1.0) -> torch.Tensor:
        """(B, T) log-probs of the target tokens, 0 elsewhere."""
        return self.token_scores(batch, temperature).logprobs

    @torch.no_grad()
    def _both_ways(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs of the same sequences, by packed rows and by the model's own pass."""
        chosen = sample_sequences(self.module.config.get_text_config().vocab_size)
        sequences: list[TrainSequence] = [
            TrainSequence(np.array(ids), np.ones(len(ids), dtype=bool)) for ids in chosen
        ]
        most = sum(len(ids) for ids in chosen)
        packed: dict[int, torch.Tensor] = {}
        for row in pack(sequences, most, one_a_row=self._one_a_row):
            packed |= dict(row.split(self.token_logprobs(row)))
        with eager_attention(self.module):
            alone = [
                self._deepspeed(pack([sequence], most)[0].to(self.device), 1.0, False, plain=True)
                for sequence in sequences
            ]
        found = torch.cat([packed[index] for index in range(len(sequences))])
        return found, torch.cat([scores.logprobs[0] for scores in alone])

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and full tensor of every parameter, tied ones under each name; under ZeRO-3 gathered in buckets.

        A gathered tensor is whole only until the next one is requested. Adapters are added to their weights.
        """
        for bucket in _buckets(list(full_weights(self.module))):
            together = {id(parameter): parameter for weight in bucket for parameter in weight.parameters}
            with self._gathered(list(together.values())):
                for weight in bucket:
                    yield weight.name, weight.whole()

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        """The whole model's state on the CPU for `save_checkpoint`, in the first rank; None if the model holds it.

        Every rank takes part in gathering; a copy in each would fill the host.
        """
        if self._config.zero_stage < 3 and self._config.lora is None:
            return None
        first = dist.get_rank() == 0
        gathered = ((name, tensor.to("cpu", copy=True) if first else None) for name, tensor in self.weights())
        return {name: tensor for name, tensor in gathered if tensor is not None}

    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapters alone, on the CPU, named as in PEFT's files; empty if every weight is trained."""
        named = dict(adapter_weights(self.module))
        with self._gathered(list(named.values())):
            return {name: parameter.detach().to("cpu", copy=True) for name, parameter in named.items()}

    @torch.no_grad()
    def base_logprobs(self, batch: PackedBatch, temperature: float = 1.0) -> torch.Tensor:
        """(B, T) log-probs of the target tokens by the model without its adapters."""
        assert self._config.lora is not None, "every weight is trained, so there is no base"
        with without_adapters(self.module):
            return self.token_logprobs(batch, temperature)

    def _gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
        """Within the block these parameters are gathered."""
        import deepspeed

        gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
            parameters, enabled=self._config.zero_stage == 3
        )
        return gathered


def _buckets(weights: Sequence[FullWeight]) -> Iterator[list[FullWeight]]:
    """The weights in order, in groups of at most GATHERED_BYTES; a larger one is a group of its own."""
    bucket: list[FullWeight] = []
    held = 0
    for weight in weights:
        size = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in weight.parameters)
        if bucket and held + size > GATHERED_BYTES:
            yield bucket
            bucket, held = [], 0
        bucket.append(weight)
        held += size
    if bucket:
        yield bucket


def _checkpoint_layers(model: PreTrainedModel) -> None:
    """Keep only the states between layers. Transformers requires training mode for it, which must change no value."""
    settings = model.config.get_text_config().to_dict()
    # resid_pdrop, attention_dropout, layerdrop, ...; not those of heads for other tasks
    dropout = [
        n for n, v in settings.items() if "drop" in n and v and not n.startswith(("classifier", "summary"))
    ]
    if dropout:
        raise ValueError(
            f"optimizer.gradient_checkpointing: the model's config.json sets {', '.join(dropout)}, which would make "
            "log-probs random; set that to 0 there"
        )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
