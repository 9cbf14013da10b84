"""Adapters under DeepSpeed against PEFT in plain PyTorch: equal steps and files, an unchanged base."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from pydantic import ValidationError
from transformers import PreTrainedModel

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.config import LoraConfig, OptimizerConfig
from tasks.shared.generation.weights import load_by_name
from tasks.shared.learning.adapter import SEED, save_adapter
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.logprobs import token_logprobs
from tasks.shared.learning.packing import pack
from tests.unit.generation.architectures import make_model
from tests.unit.generation.tiny import tiny_model
from tests.unit.learning.sequences import VOCABULARY, engine_step, sequences_of

LORA = LoraConfig(rank=4, alpha=8)
Zero = Literal[0, 1, 2, 3]


def make_engine(
    zero_stage: Zero = 0,
    dtype: torch.dtype = torch.float32,
    model: PreTrainedModel | None = None,
    lora: LoraConfig = LORA,
) -> TrainingEngine:
    config = OptimizerConfig(
        learning_rate=1e-2, weight_decay=0.1, max_grad_norm=0.5, zero_stage=zero_stage, lora=lora
    )
    return TrainingEngine((model or tiny_model(VOCABULARY)).to(dtype), config, total_steps=6)


def peft_steps(model: PreTrainedModel, num_steps: int) -> tuple[list[tuple[float, float]], PreTrainedModel]:
    """The same by `get_peft_model` and AdamW: (loss, norm) of each step, and the wrapped model."""
    torch.manual_seed(SEED)
    wrapped = get_peft_model(model, PeftLoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    results = []
    for step in range(num_steps):
        (row,) = pack(sequences_of(step), 124)
        loss = -token_logprobs(wrapped.base_model.model, row).sum() / row.num_loss_tokens
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        results.append((float(loss.detach()), float(norm)))
    return results, wrapped


def check_resuming(
    directory: Path, make: Callable[[], TrainingEngine]
) -> tuple[TrainingEngine, TrainingEngine]:
    """Save an engine after a step; another resumes and takes the next step to the same bits. Both engines."""
    engine = make()
    engine_step(engine, 0)
    engine.save(directory, {"cursor": 1})
    expected = engine_step(engine, 1)
    resumed = make()
    assert resumed.resume(directory) == {"cursor": 1}
    assert engine_step(resumed, 1) == expected
    return engine, resumed


def check_no_base_is_saved(directory: Path) -> None:
    [path] = directory.glob("step-1/*model_states.pt")
    saved = torch.load(path, weights_only=False)["module"]
    assert saved and all(".lora_" in name for name in saved)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_steps_equal_peft_in_plain_pytorch(zero_stage: Zero) -> None:
    with torch.random.fork_rng():
        expected, wrapped = peft_steps(tiny_model(VOCABULARY), 3)
    merged = dict(wrapped.merge_and_unload().state_dict())
    engine = make_engine(zero_stage)
    assert [engine_step(engine, step) for step in range(3)] == [
        pytest.approx(pair, rel=1e-4) for pair in expected
    ]
    weights = {name: tensor.clone() for name, tensor in engine.weights()}
    assert weights.keys() == merged.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("zero_stage", "dtype"), [(0, torch.float32), (2, torch.bfloat16), (3, torch.float32)]
)
def test_resuming_gives_the_same_bits_and_saves_no_base(
    zero_stage: Zero, dtype: torch.dtype, tmp_path: Path
) -> None:
    engine, resumed = check_resuming(tmp_path, lambda: make_engine(zero_stage, dtype))
    before, after = engine.adapter(), resumed.adapter()
    assert before and all(torch.equal(before[name], after[name]) for name in before)
    if zero_stage < 3:  # a rank's file of ZeRO-3 holds its slices
        check_no_base_is_saved(tmp_path)


def test_the_base_stays_and_is_the_reference() -> None:
    engine = make_engine()
    (row,) = pack(sequences_of(0), 124)
    base = token_logprobs(tiny_model(VOCABULARY), row)
    for step in range(2):
        engine_step(engine, step)
    assert not torch.allclose(engine.token_logprobs(row), base, atol=1e-3)
    torch.testing.assert_close(engine.base_logprobs(row), base, rtol=0, atol=1e-5)
    engine_step(engine, 2)  # adapters still learn after a pass of the reference
    names = {name for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
    assert names and all(".lora_" in name for name in names)


@pytest.mark.parametrize("kind", ["qwen2", "gemma3_text", "phi3"])
def test_files_open_in_peft_and_merged_weights_in_the_sampler(kind: str, tmp_path: Path) -> None:
    engine = make_engine(model=make_model(kind, VOCABULARY), lora=LoraConfig(rank=3, alpha=5))
    engine_step(engine, 0)
    base = ArtifactRef("checkpoint", "ab" * 32, "checkpoint/abab-12")
    save_adapter(engine.adapter(), LoraConfig(rank=3, alpha=5), base, tmp_path)
    opened = PeftModel.from_pretrained(make_model(kind, VOCABULARY), tmp_path)
    written = opened.peft_config["default"]
    assert (written.base_model_name_or_path, written.revision) == (base.location, base.digest)
    sampler = make_model(kind, VOCABULARY)
    load_by_name(sampler, engine.weights())
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = engine.module(input_ids=ids).logits
        torch.testing.assert_close(opened(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sampler(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    base = ArtifactRef("checkpoint", "ab" * 32, "checkpoint/abab-12")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_adapter(make_engine().adapter(), LORA, base, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_targets_are_layers_of_the_body() -> None:
    some = make_engine(lora=LoraConfig(rank=2, alpha=2, targets=("q_proj", "down_proj")))
    assert {name.split(".")[-3] for name in some.adapter()} == {"q_proj", "down_proj"}
    with pytest.raises(ValueError, match=r"has no such layers; it has down_proj, .*, q_proj"):
        make_engine(lora=LoraConfig(rank=2, alpha=2, targets=("query",)))
    for targets in (("lm_head",), ()):
        with pytest.raises(ValidationError, match="the embedding and the output head stay as they are"):
            LoraConfig(rank=2, alpha=2, targets=targets)
