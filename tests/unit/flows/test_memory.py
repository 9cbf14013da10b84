"""The arithmetic of `plan` against real models: parameters on the meta device, tensors that autograd saves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM

from benchmarks.random_work import config_of
from data.models import ModelShape, load_models
from flows.commands.cli import main
from flows.planning.layouts import lay_out
from flows.planning.memory import (
    GIB,
    GRAPHS,
    Memory,
    activations,
    adapter_parameters,
    cache_bytes_per_token,
    layer_activations,
    logits,
    sampler,
    saved_state,
    training_states,
)
from flows.planning.shapes import shape_of
from tasks.recipes import load_recipe
from tasks.rl.probe import MAX_PROBED_TOKENS
from tasks.shared.config import OptimizerConfig
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.logprobs import target_states, use_packed_attention
from tasks.shared.learning.packing import TrainSequence, pack

H100, H200 = int(79.6 * GIB), int(139.8 * GIB)  # usable memory of 80 and 141 GB
SMALL = ModelShape(
    hidden_size=256,
    layers=2,
    heads=4,
    key_value_heads=2,
    intermediate_size=704,
    vocabulary=512,
    tied=True,
    positions=1024,
)
KNOWN_BILLIONS = {  # as the models' cards state them
    "Qwen/Qwen2.5-Math-1.5B": 1.54,
    "Qwen/Qwen2.5-Math-7B": 7.62,
    "Qwen/Qwen2.5-7B-Instruct": 7.62,
    "Qwen/Qwen2.5-32B-Instruct": 32.76,
    "Qwen/Qwen3-0.6B": 0.60,
    "Qwen/Qwen3-1.7B": 1.72,
    "Qwen/Qwen3-4B": 4.02,
    "Qwen/Qwen3-4B-Instruct-2507": 4.02,
    "Qwen/Qwen3-8B": 8.19,
    "Qwen/Qwen3-14B": 14.77,
    "Qwen/Qwen3-32B": 32.76,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 0.13,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 0.36,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1.71,
    "HuggingFaceTB/SmolLM3-3B": 3.08,
    "meta-llama/Llama-3.2-1B-Instruct": 1.24,
    "meta-llama/Llama-3.2-3B-Instruct": 3.21,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03,
}


@pytest.mark.parametrize("name", sorted(load_models()))
def test_parameters_are_those_of_the_real_model(name: str) -> None:
    shape = load_models()[name].shape
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.num_parameters / 1e9 == pytest.approx(KNOWN_BILLIONS[name], abs=0.01)
    assert shape_of(model.config.to_dict()) == shape


def saved_bytes(shape: ModelShape, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the distinct storages that autograd keeps of one packed row, without parameters and positions."""
    model = AutoModelForCausalLM.from_config(config_of(shape)).to(dtype)
    use_packed_attention(model)
    ids = np.arange(tokens) % shape.vocabulary
    [row] = pack([TrainSequence(ids, np.ones(tokens, dtype=bool))], tokens)
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # a freed address could be reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        target_states(model, row)
    return sum(found.values())


@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [
        (SMALL, torch.bfloat16, 2),
        (SMALL, torch.float32, 4),
        (replace(SMALL, architecture="llama"), torch.bfloat16, 2),
        (replace(SMALL, architecture="qwen3", head_size=128), torch.bfloat16, 2),
    ],
    ids=("qwen2-bfloat16", "qwen2-float32", "llama", "qwen3"),
)
def test_activations_are_what_autograd_saves(shape: ModelShape, dtype: torch.dtype, size: int) -> None:
    """A further layer costs what the formula says, to a tenth."""
    tokens = 384
    one, three = (saved_bytes(replace(shape, layers=layers), tokens, dtype) for layers in (1, 3))
    assert layer_activations(shape, tokens, size) == pytest.approx((three - one) / 2, rel=0.1)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen3-4B-Instruct-2507"])
def test_adapters_are_as_many_as_peft_makes(name: str, targets: str | tuple[str, ...]) -> None:
    shape = replace(load_models()[name].shape, layers=2)
    config = OptimizerConfig.model_validate({"lora": {"rank": 16, "targets": targets}})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
        wanted = targets if isinstance(targets, str) else list(targets)
        inject_adapter_in_model(LoraConfig(r=16, target_modules=wanted), model)
    count = sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" in name)
    assert adapter_parameters(shape, config) == count > 0


def test_adapters_take_gradients_and_optimizer_of_their_own_alone() -> None:
    full = phases_of("torl_1_5b", 1, H100)["rl update"]
    lora = phases_of("torl_1_5b_lora", 1, H100, {"rl.kl_coefficient": 0.01})["rl update"]
    shape = load_models()["Qwen/Qwen2.5-Math-1.5B"].shape
    adapters = adapter_parameters(shape, load_recipe("torl_1_5b_lora").rl.optimizer)
    assert lora.reference == 0, "the base of the adapters is the reference"
    assert lora.weights == 2 * (shape.num_parameters + adapters)
    assert (lora.gradients, lora.optimizer) == (4 * adapters, 12 * adapters)
    assert lora.gradients + lora.optimizer < 0.03 * (full.gradients + full.optimizer)


def test_a_base_in_four_bits_takes_what_bitsandbytes_would() -> None:
    """QLoRA (arXiv 2305.14314), section 3: double quantisation takes the scales from 0.5 to 0.127 bits a weight."""
    key = {"rl.optimizer.lora.base": "nf4"}
    packed, loaded = (phases_of("torl_1_5b_lora", 1, H100, given)["rl update"] for given in (key, {}))
    shape = load_models()["Qwen/Qwen2.5-Math-1.5B"].shape
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linear_layers.values())
    assert loaded.weights - packed.weights == pytest.approx(linear * (16 - 4.127) / 8, rel=1e-4)
    assert (packed.gradients, packed.optimizer) == (loaded.gradients, loaded.optimizer)
    assert packed.activations - loaded.activations == 2 * max(i * o for i, o in shape.linear_layers.values())


def test_checkpointing_keeps_one_state_per_layer_and_one_whole_layer() -> None:
    shape = load_models()["Qwen/Qwen2.5-Math-7B"].shape
    layer = layer_activations(shape, 1000, 2)
    assert activations(shape, 1000, 2, checkpointing=False) == 28 * layer
    assert activations(shape, 1000, 2, checkpointing=True) == 28 * 1000 * 2 * 3584 + layer


def test_zero_shards_what_its_paper_says() -> None:
    """M = 7.5 B on 64 ranks, figure 1 of arXiv 1910.02054, with gradients summed in float32 as here: 4 M, not 2 M."""
    million = 7_500_000_000

    def total(stage: int, ranks: int = 64, offload: bool = False) -> float:
        config = OptimizerConfig(zero_stage=stage, offload=offload)
        *on_gpu, host = training_states(million, 2, config, ranks)
        assert bool(host) == offload
        return sum(on_gpu) / 1e9

    assert total(1) == pytest.approx(2 * 7.5 + 4 * 7.5 + 12 * 7.5 / 64)
    assert total(2) == pytest.approx(2 * 7.5 + 16 * 7.5 / 64)
    assert total(3) == pytest.approx(18 * 7.5 / 64)
    assert total(3, ranks=1) == pytest.approx(18 * 7.5)
    assert total(3, offload=True) == pytest.approx(2 * 7.5 / 64)
    *states, _ = training_states(1000, 4, OptimizerConfig(zero_stage=0), 1)
    assert states == [4000, 4000, 8000]


def test_keys_and_values_of_a_token() -> None:
    """Qwen2.5-7B: 28 layers, 4 key-value heads of 128, keys and values of two bytes: 56 KiB."""
    assert cache_bytes_per_token(load_models()["Qwen/Qwen2.5-7B-Instruct"].shape, 2) == 56 * 1024


def test_logits_are_bounded_whatever_the_row() -> None:
    shape = load_models()["Qwen/Qwen2.5-7B-Instruct"].shape
    assert logits(shape, 10) == 28 * 10 * 152064
    assert logits(shape, 16384) == logits(shape, 65536) == 28 * 2**27


@pytest.mark.parametrize(
    ("recipe", "gpus", "gpu"),
    [
        ("retool", 32, H200),
        ("text_rl", 32, H200),
        ("retool_7b", 8, H100),
        ("torl_1_5b", 8, H100),
        ("torl_7b", 8, H100),
    ],
)
def test_production_recipes_fit_the_hardware_they_name(recipe: str, gpus: int, gpu: int) -> None:
    resolved = load_recipe(recipe)
    assert resolved.rl.optimizer.ranks == gpus
    layout = lay_out(resolved, gpus, gpu)
    assert layout.refusal() is None
    smaller = lay_out(resolved, max(1, gpus // 8), gpu // 4)
    assert smaller.refusal() is not None


def test_adapters_fit_one_gpu_where_all_weights_would_not() -> None:
    assert lay_out(load_recipe("torl_1_5b_lora"), 1, H100).refusal() is None
    recipe = load_recipe("retool_4b_lora")
    assert recipe.generation.max_response_tokens == 8192
    assert lay_out(recipe, 1, H100).refusal() is None
    full = recipe.rl.model_copy(update={"optimizer": recipe.rl.optimizer.model_copy(update={"lora": None})})
    refusal = lay_out(recipe.model_copy(update={"rl": full}), 1, H100).refusal()
    assert refusal is not None and "rl start takes" in refusal


def test_a_sampler_that_sleeps_leaves_its_memory_to_the_update() -> None:
    found = {}
    for sleeps in (True, False):
        phases = phases_of("retool_7b", 8, H100, {"rl.sleep_sampler": sleeps})
        assert phases["rl sample"].sampler == phases["rl probe"].sampler > 0
        found[sleeps] = phases["rl update"]
    assert found[True].sampler == GRAPHS, "its CUDA graphs stay"
    assert found[False].total - found[True].total == found[False].sampler - GRAPHS > 0


def test_offloaded_states_free_memory_for_the_sampler() -> None:
    """A 32nd of 32B: 12 bytes of optimizer and 4 of gradients a weight, and the critic's; weights stay."""
    overrides = {"rl.offload_while_sampling": True}
    there, away = phases_of("retool", 32, H200), phases_of("retool", 32, H200, overrides)
    for phase in ("rl sample", "rl probe"):
        assert away[phase].gradients == away[phase].optimizer == 0
        assert (
            away[phase].weights == there[phase].weights and 0 < away[phase].critic < there[phase].critic / 8
        )
    assert away["rl start"].sampler == GRAPHS and away["rl update"] == there["rl update"]
    moved = there["rl sample"].total - away["rl sample"].total
    hosts = [lay_out(load_recipe("retool", some), 32, H200).host for some in ({}, overrides)]
    assert hosts[1] - hosts[0] == 8 * moved
    assert moved > 30 * load_models()["Qwen/Qwen2.5-32B-Instruct"].shape.num_parameters / 32


def phases_of(recipe: str, gpus: int, gpu: int, overrides: dict[str, Any] | None = None) -> dict[str, Memory]:
    layout = lay_out(load_recipe(recipe, overrides), gpus, gpu)
    return {phase.name: phase.memory for phase in layout.phases}


def test_the_start_beside_an_awake_sampler_counts_slices() -> None:
    """32B under stage 3: a 32nd of the weights and a parameter at a time; under stage 2 all of the weights."""
    shape = load_models()["Qwen/Qwen2.5-32B-Instruct"].shape
    start = phases_of("retool", 32, H200)["rl start"]
    assert start.weights == 2 * -(-shape.num_parameters // 32)
    assert start.buffers == 2 * 2 * shape.vocabulary * shape.hidden_size
    assert start.sampler == int(0.65 * H200)
    whole = phases_of("retool", 32, H200, {"rl.optimizer.zero_stage": 2})["rl start"]
    assert whole.weights == 2 * shape.num_parameters and whole.total > H200


def test_the_probe_counts_logits_of_whole_sequences() -> None:
    recipe, shape = "retool", load_models()["Qwen/Qwen2.5-32B-Instruct"].shape
    phases = phases_of(recipe, 32, H200)
    assert phases["rl probe"].logits == 10 * 2048 * shape.vocabulary == 10 * MAX_PROBED_TOKENS * 152064
    assert phases["rl probe"].total > phases["rl sample"].total


def test_the_cache_is_what_weights_a_step_and_graphs_leave() -> None:
    shape = load_models()["Qwen/Qwen2.5-7B-Instruct"].shape
    recipe = load_recipe("retool_7b")
    step = 2 * 16384 * (3 * 18944 + 4 * 3584) + 10 * 256 * 152064
    assert sampler(recipe, shape, H100).cache == int(0.45 * H100) - 2 * shape.num_parameters - step - GRAPHS


@pytest.mark.parametrize(
    ("zero_stage", "dtype"), [(0, torch.float32), (2, torch.bfloat16), (3, torch.bfloat16)]
)
def test_the_size_of_a_saved_state_is_that_of_its_files(
    zero_stage: Literal[0, 2, 3], dtype: torch.dtype, tmp_path: Path
) -> None:
    config = OptimizerConfig(zero_stage=zero_stage)
    model = AutoModelForCausalLM.from_config(config_of(SMALL)).to(dtype)
    engine = TrainingEngine(model, config, total_steps=2)
    [row] = pack([TrainSequence(np.arange(9), np.ones(9, dtype=bool))], 9)
    engine.backward(-engine.token_logprobs(row).sum())
    engine.step()
    engine.save(tmp_path, {})
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.pt"))
    assert size == pytest.approx(saved_state(SMALL.num_parameters, dtype.itemsize, config), rel=0.02)


def test_the_plan_says_what_a_checkpoint_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """ReTool at 32B: policy and critic, 12 bytes a parameter."""
    assert main(["plan", "retool", "--gpus", "32", "--memory-gib", "139.8", "--as-written"]) == 0
    assert "rl writes 777 GB to resume from every 25 steps, 24.3 GB a GPU" in capsys.readouterr().out


def test_recipes_pin_the_commits_of_the_registry() -> None:
    models = load_models()
    for name in ("retool", "text_rl", "retool_7b", "torl_1_5b", "torl_7b"):
        recipe = load_recipe(name)
        model = models[recipe.model.id]
        assert recipe.model.revision == model.revision
        assert len(model.revision) == 40
        longest = recipe.generation.max_prompt_tokens + recipe.generation.max_response_tokens + 1
        assert longest <= model.shape.positions


def test_the_command_prints_a_plan_or_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "torl_1_5b", "--gpus", "8", "--memory-gib", "80", "--json", "--as-written"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["refusal"] is None
    assert written["tokens_per_step"] == 128 * 16 * (1023 + 3072)
    assert [phase["name"] for phase in written["phases"]] == [
        "rl start",
        "rl sample",
        "rl update",
        "rl probe",
        "evaluate",
    ]
    for phase in written["phases"]:
        memory = phase["memory"]
        assert memory.pop("total") == sum(memory.values())
    assert main(["plan", "retool", "--gpus", "8", "--memory-gib", "80", "--as-written"]) == 2
    captured = capsys.readouterr()
    [fits] = [line for line in captured.out.splitlines() if line.startswith("│ fits")]
    # evaluation does not fit either: no GPU of 80 GiB holds 32B in this layout
    assert fits.count("no") == 6 and "yes" not in fits
    assert captured.err.count("\n") == 1
    assert "sft takes 93.0 GiB on each of 8 GPUs of 80.0, most of it optimizer" in captured.err
    small = "plan torl_7b --gpus 64 --memory-gib 48 --set generation.gpu_memory_utilization=0.29 --as-written"
    assert main(small.split()) == 2
    assert "less than weights, a step and one sequence" in capsys.readouterr().err
    assert main(["plan", "retool", "--gpus", "0", "--memory-gib", "80"]) == 2
    assert main(["plan", "retool", "--gpus", "8", "--memory-gib", "80", "--set", "model.id=none/such"]) == 2
    assert "no model 'none/such'; add its shape there" in capsys.readouterr().err
