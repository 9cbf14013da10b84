"""Before anything runs: what a recipe takes on each GPU in each phase, or what it would do under a run's name.

    tirflow plan retool --gpus 32 --memory-gib 139.8 [--set generation.gpu_memory_utilization=0.55] [--json]
    tirflow plan tiny --run demo                          # flows/work_plan.py

Every GPU is one rank. Prints a table, or JSON; exit code 2 and one line if a phase cannot fit, an input is missing or
the recipe is wrong.
"""

import json
import sys
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.models import ARCHITECTURES, ModelShape, find_model
from flows.memory import (
    GIB,
    Memory,
    Phase,
    Sampling,
    critic_parameters,
    element_size,
    evaluate_phase,
    rl_phases,
    sampler,
    saved_state,
    sft_phase,
    trained_parameters,
)
from tasks.shared.config import ModelConfig, Recipe
from tasks.shared.recipes import load_recipe


@dataclass(frozen=True, slots=True)
class Saved:
    """What a stage writes, now and then, to resume from."""

    stage: str
    size: int  # bytes, of all ranks
    every_steps: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe on a number of GPUs."""

    recipe: str
    gpus: int
    gpu: int  # bytes of one
    parameters: int
    phases: list[Phase]
    sampling: Sampling | None  # None: the engine is not vLLM
    trajectories_per_step: int
    tokens_per_step: int  # prompts and responses at their largest
    rows_per_rank: int  # micro-batches of an update, if all were at their largest
    sft_tokens_per_step: int  # 0: no cold start
    saved: list[Saved]

    def refusal(self) -> str | None:
        """Why it cannot run, in one line with the remedy; None if it can."""
        for phase in self.phases:
            if phase.memory.total > self.gpu:
                named = ((field.name, getattr(phase.memory, field.name)) for field in fields(Memory))
                largest, size = max(named, key=lambda item: item[1])
                return (
                    f"{self.recipe}: {phase.name} takes {_gib(phase.memory.total)} GiB on each of {self.gpus} GPUs of "
                    f"{_gib(self.gpu)}, most of it {largest} ({_gib(size)}); {REMEDIES[largest]}"
                )
        if self.sampling is not None and self.sampling.sequences < 1:
            return (
                f"{self.recipe}: vLLM's share holds {_gib(max(0, self.sampling.cache))} GiB of keys and values beside "
                "the weights, less than one sequence of the largest length; raise generation.gpu_memory_utilization, "
                "lower generation.max_response_tokens, or take GPUs with more memory"
            )
        return None


REMEDIES = {
    "weights": "set the optimizer's zero_stage = 3, or take more GPUs",
    "gradients": "set the optimizer's zero_stage to 2 or 3, or take more GPUs",
    "optimizer": "take more GPUs, or set the optimizer's offload = true",
    "critic": "take more GPUs, set rl.optimizer.offload = true, or use an algorithm without a critic",
    "reference": "set rl.kl_coefficient = 0, or take GPUs with more memory",
    "sampler": "lower generation.gpu_memory_utilization, or take GPUs with more memory",
    "activations": "set the optimizer's gradient_checkpointing = true, or lower tokens_per_micro_batch",
    "logits": "take GPUs with more memory",
    "buffers": "take GPUs with more memory",
    "allowance": "take GPUs with more memory",
}


def make_plan(recipe: Recipe, gpus: int, gpu: int) -> Plan:
    """The plan of a recipe on `gpus` GPUs of `gpu` bytes. ValueError if the model's shape is not known."""
    shape = find_shape(recipe.model)
    generation, rl = recipe.generation, recipe.rl
    phases = [sft_phase(recipe, shape, gpus)] if recipe.cold_start else []
    phases += [*rl_phases(recipe, shape, gpus, gpu), evaluate_phase(recipe, shape, gpu)]
    trajectories = rl.prompts_per_step * rl.samples_per_prompt
    tokens = trajectories * (generation.max_prompt_tokens + generation.max_response_tokens)
    return Plan(
        recipe=recipe.name,
        gpus=gpus,
        gpu=gpu,
        parameters=shape.num_parameters,
        phases=phases,
        sampling=sampler(recipe, shape, gpu) if generation.engine == "vllm" else None,
        trajectories_per_step=trajectories,
        tokens_per_step=tokens,
        rows_per_rank=-(-tokens // (rl.tokens_per_micro_batch * gpus)),
        sft_tokens_per_step=recipe.sft.tokens_per_step if recipe.cold_start else 0,
        saved=saved_states(recipe, shape),
    )


def saved_states(recipe: Recipe, shape: ModelShape) -> list[Saved]:
    """The checkpoints to resume from: SFT's, RL's with that of PPO's critic."""
    size, sft, rl = element_size(recipe.model.dtype), recipe.sft, recipe.rl
    critic = critic_parameters(shape) if rl.algorithm == "ppo" else 0
    trained = trained_parameters(shape, rl.optimizer) + critic
    found = []
    if recipe.cold_start:
        tuned = trained_parameters(shape, sft.optimizer)
        found.append(Saved("sft", saved_state(tuned, size, sft.optimizer), sft.checkpoint_every_steps))
    return [*found, Saved("rl", saved_state(trained, size, rl.optimizer), rl.checkpoint_every_steps)]


def find_shape(config: ModelConfig) -> ModelShape:
    """The shape of a recipe's model: from the registry, a local config.json, or the recipe itself."""
    if config.source == "hub":
        return find_model(config.id).shape
    if config.source == "tiny":
        tiny = config.tiny
        sizes = (tiny.hidden_size, tiny.layers, tiny.heads, tiny.key_value_heads, tiny.intermediate_size)
        return ModelShape(*sizes, vocabulary=tiny.vocabulary, tied=True, positions=tiny.max_positions)
    path = Path(config.path) / "config.json"
    if not path.is_file():
        raise ValueError(f"model.path: no {path}; give a save_pretrained directory")
    return shape_of(json.loads(path.read_text(encoding="utf-8")))


def shape_of(config: dict[str, Any]) -> ModelShape:
    """The shape that a config.json states. ValueError for an architecture that is not counted."""
    architecture: Any = config.get("model_type")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"plan counts models of type {', '.join(ARCHITECTURES)}, and this one is '{architecture}'"
        )
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise ValueError(f"plan counts no biases, and this model of type '{architecture}' has some")
    size = config.get("head_dim") or 0
    own_size = size if size * config["num_attention_heads"] != config["hidden_size"] else 0
    return ModelShape(
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        key_value_heads=config["num_key_value_heads"],
        intermediate_size=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=config["tie_word_embeddings"],
        positions=config["max_position_embeddings"],
        architecture=architecture,
        head_size=own_size,
    )


def tell(recipe: str, run: str, gpus: int, memory_gib: float, changes: list[str], as_json: bool) -> int:
    """Print the plan of a recipe with `changes` (key=value each); the exit code, 2 where it cannot be carried out."""
    resolved = load_recipe(recipe, dict(read_override(text) for text in changes))
    if run:
        from flows.work_plan import tell as tell_work  # Prefect takes seconds to import

        return tell_work(resolved, run, as_json)
    if gpus < 1 or memory_gib <= 0:
        raise ValueError("plan: give --run NAME, or --gpus and --memory-gib, both above 0")
    plan = make_plan(resolved, gpus, int(memory_gib * GIB))
    refusal = plan.refusal()
    if as_json:
        sys.stdout.write(json.dumps(_as_json(plan) | {"refusal": refusal}, indent=2) + "\n")
    else:
        _show(plan, Console())
    if refusal is not None:
        sys.stderr.write(refusal + "\n")
        return 2
    return 0


def read_override(text: str) -> tuple[str, Any]:
    """`key=value`; the value as TOML has it, text without quotes where it is none."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set '{text}': write key=value")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _as_json(plan: Plan) -> dict[str, Any]:
    tree = asdict(plan)
    for phase, written in zip(plan.phases, tree["phases"], strict=True):
        written["memory"]["total"] = phase.memory.total
    return tree


def _show(plan: Plan, console: Console) -> None:
    parts = [field.name for field in fields(Memory)]
    used = [name for name in parts if any(getattr(phase.memory, name) for phase in plan.phases)]
    console.print(
        f"{plan.recipe}: {plan.parameters / 1e6:,.1f} M parameters, {plan.gpus} GPUs of {_gib(plan.gpu)} GiB"
    )
    table = Table()
    table.add_column("GiB on each")
    for phase in plan.phases:
        table.add_column(phase.name, justify="right")
    for name in used:
        table.add_row(name, *(_gib(getattr(phase.memory, name)) for phase in plan.phases))
    table.add_section()
    fits = ["[green]yes[/]" if p.memory.total <= plan.gpu else "[red]no[/]" for p in plan.phases]
    table.add_row("total", *(_gib(phase.memory.total) for phase in plan.phases))
    table.add_row("fits", *fits)
    if any(phase.host for phase in plan.phases):
        table.add_row("host memory", *(_gib(phase.host) for phase in plan.phases))
    console.print(table)
    if plan.sft_tokens_per_step:
        console.print(f"SFT step: {plan.sft_tokens_per_step:,} tokens")
    console.print(
        f"RL step: {plan.trajectories_per_step:,} trajectories, at most {plan.tokens_per_step:,} tokens, "
        f"{plan.rows_per_rank:,} micro-batches on each GPU"
    )
    for saved in plan.saved:
        console.print(
            f"{saved.stage} writes {saved.size / 1e9:,.0f} GB to resume from every {saved.every_steps} steps, "
            f"{saved.size / plan.gpus / 1e9:,.1f} GB a GPU; twice that must find room"
        )
    if plan.sampling is not None:
        console.print(
            f"vLLM on each GPU: {plan.sampling.bytes_per_token / 1024:.0f} KiB of keys and values a token, "
            f"{plan.sampling.sequences} sequences of the largest length at once"
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
