"""A recipe on a number of GPUs: the memory of each phase, the seconds of a step, and the choice of a layout.

A layout places the sampler (on the trainer's GPUs, or a pool with its own) and says the pool's servers and tensor
parallelism, ranks, hosts, offload; all are keys of the recipe. `choose` tries all and takes the quickest that fits.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import getitem
from typing import Any

from data.gpus import Gpu
from data.models import ModelShape
from flows.planning.memory import (
    GIB,
    Phase,
    Sampling,
    critic_parameters,
    element_size,
    evaluate_phase,
    rl_phases,
    sampler,
    saved_state,
    sft_phase,
    tensor_parallel,
    trained_parameters,
)
from flows.planning.seconds import GPUS_A_HOST, Engines, StepSeconds, Trainer, Work, step_seconds
from flows.planning.shapes import find_shape
from tasks.recipes import Recipe, resolve
from tasks.shared.config import PoolConfig

TENSOR_PARALLEL = (1, 2, 4, 8)
SHARES = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4)  # of the GPUs or hosts, tried for a pool
UTILIZATION = "generation.gpu_memory_utilization"
POOL_UTILIZATION = 0.9  # of a pool's own GPUs, if the recipe's value is for an engine beside the trainer
REMEDIES = {
    "weights": "set the optimizer's zero_stage = 3, or take more GPUs",
    "gradients": "set the optimizer's zero_stage to 2 or 3, or take more GPUs",
    "optimizer": "take more GPUs, or set the optimizer's offload = true",
    "critic": "take more GPUs, set rl.optimizer.offload = true, or use an algorithm without a critic",
    "reference": "set rl.kl_coefficient = 0, or take GPUs with more memory",
    "sampler": "sample in a pool with generation.pool.tensor_parallel, or take GPUs with more memory",
    "activations": "set the optimizer's gradient_checkpointing = true, or lower tokens_per_micro_batch",
    "logits": "take GPUs with more memory",
    "buffers": "take GPUs with more memory",
    "allowance": "take GPUs with more memory",
}


@dataclass(frozen=True, slots=True)
class Saved:
    """The checkpoint from which a stage resumes."""

    stage: str
    size: int  # bytes, of all ranks
    every_steps: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A recipe on a number of GPUs."""

    recipe: str
    changes: dict[str, Any]  # the layout's overrides of the recipe
    gpus: int
    gpu: int  # bytes of one
    sampling_gpus: int  # of a pool; 0 if every GPU trains and samples
    tensor_parallel: int
    offload: bool
    offload_while_sampling: bool
    parameters: int
    phases: list[Phase]
    share: int  # bytes of a GPU that vLLM may take while it is awake
    sampling: Sampling | None  # None for another engine than vLLM
    trajectories_per_step: int
    tokens_per_step: int  # prompts and responses at their largest
    rows_per_rank: int  # micro-batches of an update, with all at their largest
    sft_tokens_per_step: int  # 0 without a cold start
    saved: list[Saved]
    host: int  # bytes of host memory for training on the fullest host
    steps: int  # of RL, over all rounds
    staleness: int  # above 0: steps are asynchronous
    seconds: StepSeconds | None  # None if no kind of GPU was named

    @property
    def name(self) -> str:
        """The layout in words."""
        name = "inside"
        if self.sampling_gpus:
            training = self.gpus - self.sampling_gpus
            name = f"pool {training} + {self.sampling_gpus}, tensor parallel {self.tensor_parallel}"
        moved = ", offload while sampling" if self.offload_while_sampling else ""
        return name + (", offload" if self.offload else moved)

    @property
    def step_s(self) -> float:
        """Seconds of a step; needs a kind of GPU."""
        assert self.seconds is not None
        return self.seconds.asynchronous if self.staleness else self.seconds.synchronous

    def fits(self, phase: Phase) -> bool:
        """Whether the phase fits on a GPU, and the sampler into vLLM's share."""
        return phase.memory.total <= self.gpu and phase.memory.sampler <= self.share

    def refusal(self) -> str | None:
        """The reason why it cannot run, in one line with the remedy; None if it can."""
        for phase in self.phases:
            if phase.memory.total > self.gpu:
                largest, size = max(asdict(phase.memory).items(), key=lambda item: item[1])
                return (
                    f"{self.recipe}: {phase.name} takes {gib(phase.memory.total)} GiB on each of {self.gpus} GPUs of "
                    f"{gib(self.gpu)}, most of it {largest} ({gib(size)}); {REMEDIES[largest]}"
                )
            if phase.memory.sampler > self.share:
                return (
                    f"{self.recipe}: {phase.name}: vLLM's share of {gib(self.share)} GiB is less than weights, a step "
                    f"and one sequence of the largest length, {gib(phase.memory.sampler)}; raise "
                    "generation.gpu_memory_utilization, sample in a pool with generation.pool.tensor_parallel, or take "
                    "GPUs with more memory"
                )
        return None


def lay_out(
    recipe: Recipe,
    gpus: int,
    gpu: int,
    kind: Gpu | None = None,
    work: Work | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Layout:
    """Lay a recipe out on `gpus` GPUs of `gpu` bytes; with seconds if `kind` and `work` are given.

    Every GPU outside a pool is a rank. ValueError if the model's shape is unknown or there are too few GPUs.
    """
    shape = find_shape(recipe.model)
    generation, rl = recipe.generation, recipe.rl
    sampling_gpus = _sampling_gpus(recipe)
    if sampling_gpus >= gpus:
        raise ValueError(
            f"the recipe's pool has {sampling_gpus} GPUs, and of {gpus} none is left to train on"
        )
    ranks = gpus - sampling_gpus
    phases = [sft_phase(recipe, shape, gpus)] if recipe.cold_start else []
    phases += [*rl_phases(recipe, shape, ranks, gpu), evaluate_phase(recipe, shape, gpu)]
    trajectories = rl.prompts_per_step * rl.samples_per_prompt
    tokens = trajectories * (generation.max_prompt_tokens + generation.max_response_tokens)
    held = sampler(recipe, shape, gpu) if generation.engine == "vllm" else None
    return Layout(
        recipe=recipe.name,
        changes=dict(changes or {}),
        gpus=gpus,
        gpu=gpu,
        sampling_gpus=sampling_gpus,
        tensor_parallel=tensor_parallel(recipe),
        offload=rl.optimizer.offload,
        offload_while_sampling=rl.offload_while_sampling,
        parameters=shape.num_parameters,
        phases=phases,
        share=int(generation.gpu_memory_utilization * gpu) if held is not None else gpu,
        sampling=held,
        trajectories_per_step=trajectories,
        tokens_per_step=tokens,
        rows_per_rank=-(-tokens // (rl.tokens_per_micro_batch * ranks)),
        sft_tokens_per_step=recipe.sft.tokens_per_step if recipe.cold_start else 0,
        saved=saved_states(recipe, shape),
        host=max(phase.host for phase in phases) * min(ranks, GPUS_A_HOST),
        steps=rl.num_rounds * rl.steps_per_round,
        staleness=rl.staleness,
        seconds=_seconds(recipe, shape, gpus, kind, work, held) if kind and work else None,
    )


def _sampling_gpus(recipe: Recipe) -> int:
    """GPUs that only sample, without those of running servers."""
    pool = recipe.generation.pool
    if recipe.generation.placement == "inside" or pool.addresses:
        return 0
    return pool.servers * pool.tensor_parallel * max(1, pool.nodes)


def _seconds(
    recipe: Recipe, shape: ModelShape, gpus: int, kind: Gpu, work: Work, held: Sampling | None
) -> StepSeconds:
    """The estimate for the recipe's sampler and trainer."""
    rl, optimizer = recipe.rl, recipe.rl.optimizer
    sampling_gpus = _sampling_gpus(recipe)
    slots = recipe.generation.max_sequences
    if held is not None:
        most = held.cache / held.bytes_per_token / (work.prompt_tokens + work.mean_tokens)
        slots = max(1, min(slots, int(most)))
    passes = (rl.mini_batches > 1) + bool(rl.kl_coefficient) + (rl.algorithm == "ppo")
    return step_seconds(
        work,
        shape,
        kind,
        Engines((sampling_gpus or gpus) // tensor_parallel(recipe), tensor_parallel(recipe), slots),
        Trainer(
            ranks=gpus - sampling_gpus,
            zero_stage=optimizer.zero_stage,
            row_tokens=rl.tokens_per_micro_batch,
            updates=rl.mini_batches,
            forward_passes=passes,
            models=2 if rl.algorithm == "ppo" else 1,
            checkpointing=optimizer.gradient_checkpointing,
            adapters=optimizer.lora is not None,
            offload=optimizer.offload,
            offload_while_sampling=rl.offload_while_sampling,
        ),
        element_size(recipe.model.dtype),
    )


def work_of(recipe: Recipe, mean_tokens: float = 0.0, tail: float = 5.0, call_s: float = 1.0) -> Work:
    """The work of a step of the recipe; by default a response has a third of the largest length on average."""
    rl, most = recipe.rl, recipe.generation.max_response_tokens
    return Work(
        trajectories=rl.prompts_per_step * rl.num_samples,
        mean_tokens=mean_tokens or most / 3,
        most_tokens=most,
        tail=tail,
        prompt_tokens=min(300, recipe.generation.max_prompt_tokens),
        calls=min(3, recipe.traces.max_calls),
        most_calls=recipe.traces.max_calls,
        call_s=call_s,
    )


def choose(
    recipe: Recipe,
    gpus: int,
    gpu: int,
    kind: Gpu,
    work: Work,
    given: Mapping[str, Any],
    staleness: int | None = None,
) -> list[Layout]:
    """Every layout, the best first: the quickest that fits, among equal ones that with the fewest changes.

    Pools have `staleness`, by default the recipe's; on the trainer's GPUs steps are synchronous. Layouts that override
    a `given` key are left out. ValueError if the GPUs make no whole hosts.
    """
    if recipe.generation.pool.addresses:  # running servers: nothing to choose
        return [lay_out(recipe, gpus, gpu, kind, work)]
    tree = recipe.model_dump(mode="json")
    layouts = []
    for keys in _candidates(recipe, gpus, recipe.rl.staleness if staleness is None else staleness):
        if UTILIZATION in given:
            keys.pop(UTILIZATION, None)
        if any(keys.get(key, value) != value for key, value in given.items()):
            continue
        changed = resolve(tree, keys, recipe.name)
        if _sft_lacks(changed, gpus, gpu):
            keys = {**keys, "sft.optimizer.offload": True}
            changed = resolve(tree, keys, recipe.name)
        changes = {
            key: value for key, value in keys.items() if reduce(getitem, key.split("."), tree) != value
        }
        layouts.append(lay_out(changed, gpus, gpu, kind, work, changes))
    if not layouts:
        raise ValueError(f"{recipe.name}: no layout of {gpus} GPUs has {', '.join(given)}; take --set out")
    return sorted(layouts, key=_rank)


def _sft_lacks(recipe: Recipe, gpus: int, gpu: int) -> bool:
    """Whether SFT does not fit, and might with its optimizer offloaded."""
    if not recipe.cold_start or not recipe.sft.optimizer.zero_stage:
        return False
    return sft_phase(recipe, find_shape(recipe.model), gpus).memory.total > gpu


def _rank(layout: Layout) -> tuple[bool, float, int]:
    """The sort key of layouts; those that do not fit come last, sorted by the missing bytes."""
    if layout.refusal() is not None:
        lacking = max(
            phase.memory.total - layout.gpu + max(0, phase.memory.sampler - layout.share)
            for phase in layout.phases
        )
        return True, lacking, len(layout.changes)
    return False, round(layout.step_s), len(layout.changes)


def _candidates(recipe: Recipe, gpus: int, staleness: int) -> list[dict[str, Any]]:
    """The overrides of every layout to try."""
    if gpus > GPUS_A_HOST and gpus % GPUS_A_HOST:
        raise ValueError(
            f"{gpus} GPUs are no whole hosts of {GPUS_A_HOST}; take a multiple of it, or --as-written"
        )
    hosts = max(1, gpus // GPUS_A_HOST)
    stages = {"sft.optimizer.ranks": gpus, "sft.optimizer.nodes": hosts} if recipe.cold_start else {}
    offloads = [False, True] if recipe.rl.optimizer.zero_stage else [False]
    vllm = recipe.generation.engine == "vllm"
    default = PoolConfig().model_dump(mode="json")
    found: list[dict[str, Any]] = []
    for offload in offloads:
        trained = {**stages, "rl.optimizer.offload": offload, "rl.offload_while_sampling": False}
        found.append(
            {
                **trained,
                "generation.placement": "inside",
                **{f"generation.pool.{key}": value for key, value in default.items()},
                "rl.sleep_sampler": vllm,
                "rl.staleness": 0,
                "rl.update_in_flight": False,
                "rl.optimizer.ranks": gpus,
                "rl.optimizer.nodes": hosts,
            }
        )
        if vllm:
            trained |= {
                "rl.staleness": staleness,
                "rl.update_in_flight": recipe.rl.update_in_flight and bool(staleness),
            }
            found += [{**trained, **pool} for pool in _pools(recipe, gpus, hosts)]
    if (
        vllm and recipe.rl.optimizer.zero_stage == 3
    ):  # last: of equal layouts the one that moves less comes first
        found.append({**found[0], "rl.offload_while_sampling": True})
    return found


def _pools(recipe: Recipe, gpus: int, hosts: int) -> list[dict[str, Any]]:
    """Pools on part of one host's GPUs, or on part of the hosts, with every tensor parallelism that divides them."""
    of_hosts, whole = hosts > 1, hosts if hosts > 1 else gpus
    heads = find_shape(recipe.model).heads
    inside = recipe.generation.placement == "inside"
    found = []
    for parts in sorted({round(share * whole) for share in SHARES} - {0, whole}):
        on_host = GPUS_A_HOST if of_hosts else parts
        for size in TENSOR_PARALLEL:
            if on_host % size or heads % size:
                continue
            found.append(
                {
                    "generation.placement": "pool",
                    "generation.pool.servers": on_host // size,
                    "generation.pool.tensor_parallel": size,
                    "generation.pool.nodes": parts if of_hosts else 0,
                    UTILIZATION: POOL_UTILIZATION if inside else recipe.generation.gpu_memory_utilization,
                    "rl.sleep_sampler": False,
                    "rl.optimizer.ranks": (whole - parts) * (GPUS_A_HOST if of_hosts else 1),
                    "rl.optimizer.nodes": whole - parts if of_hosts else 1,
                }
            )
    return found


def saved_states(recipe: Recipe, shape: ModelShape) -> list[Saved]:
    """The checkpoints to resume from: SFT's, and RL's including PPO's critic."""
    size, sft, rl = element_size(recipe.model.dtype), recipe.sft, recipe.rl
    critic = critic_parameters(shape) if rl.algorithm == "ppo" else 0
    trained = trained_parameters(shape, rl.optimizer) + critic
    found = []
    if recipe.cold_start:
        tuned = trained_parameters(shape, sft.optimizer)
        found.append(Saved("sft", saved_state(tuned, size, sft.optimizer), sft.checkpoint_every_steps))
    return [*found, Saved("rl", saved_state(trained, size, rl.optimizer), rl.checkpoint_every_steps)]


def gib(size: int) -> str:
    """Bytes as GiB."""
    return f"{size / GIB:.1f}"
