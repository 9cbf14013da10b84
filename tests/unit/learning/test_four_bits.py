"""Adapters over a base in four bits against PEFT over bitsandbytes' own layers; without the package, a refusal."""

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedModel

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.config import LoraConfig, OptimizerConfig
from tasks.shared.generation.weights import load_by_name
from tasks.shared.learning.adapter import add_adapters, save_adapter
from tasks.shared.learning.logprobs import token_logprobs
from tasks.shared.learning.packing import pack
from tests.unit.generation.architectures import make_model
from tests.unit.generation.tiny import tiny_model
from tests.unit.learning.sequences import VOCABULARY, engine_step, sequences_of
from tests.unit.learning.test_lora import check_no_base_is_saved, check_resuming, make_engine, peft_steps

SOME = LoraConfig(rank=4, alpha=8, targets=("q_proj", "down_proj"), base="nf4")
ALL = LoraConfig(rank=4, alpha=8, base="nf4")


@pytest.fixture
def bitsandbytes() -> Any:
    return pytest.importorskip("bitsandbytes", reason="QLoRA was not tested: pip install bitsandbytes")


def body_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    head = model.get_output_embeddings()
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}


def rounded(model: PreTrainedModel, bitsandbytes: Any) -> PreTrainedModel:
    """The same model with each linear layer's weight as four bits give it back."""
    for layer in body_layers(model).values():
        packed = bitsandbytes.functional.quantize_4bit(
            layer.weight.data, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        layer.weight.data = bitsandbytes.functional.dequantize_4bit(*packed)
    return model


def model_of_bitsandbytes(bitsandbytes: Any) -> PreTrainedModel:
    """A model whose linear layers are bitsandbytes' Linear4bit."""
    model = tiny_model(VOCABULARY).train()  # in evaluation bitsandbytes repacks for some processors
    for name, layer in body_layers(model).items():
        packed = bitsandbytes.nn.LinearNF4(layer.in_features, layer.out_features, bias=layer.bias is not None)
        packed.load_state_dict(layer.state_dict())
        model.set_submodule(name, packed.to("cpu"))
    model.is_loaded_in_4bit = True
    return model


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_steps_equal_peft_over_bitsandbytes(zero_stage: Literal[0, 2], bitsandbytes: Any) -> None:
    with torch.random.fork_rng():
        expected, _ = peft_steps(model_of_bitsandbytes(bitsandbytes), 3)
    engine = make_engine(zero_stage, lora=ALL)
    assert [engine_step(engine, step) for step in range(3)] == [
        pytest.approx(pair, rel=1e-4) for pair in expected
    ]
    layers = [layer.base_layer for layer in engine.module.modules() if hasattr(layer, "base_layer")]
    assert layers and all(layer.weight.dtype == torch.uint8 for layer in layers)


@pytest.mark.parametrize(
    ("kind", "lora"), [("qwen2", SOME), ("gemma3_text", ALL), ("phi3", ALL)], ids=lambda value: str(value)[:6]
)
def test_sampler_and_files_get_what_is_trained(
    kind: str, lora: LoraConfig, bitsandbytes: Any, tmp_path: Path
) -> None:
    """Its logits are those of the merged weights and of PEFT's adapter over the packed weights."""
    engine = make_engine(model=make_model(kind, VOCABULARY), lora=lora)
    (row,) = pack(sequences_of(0), 124)
    base = token_logprobs(rounded(make_model(kind, VOCABULARY), bitsandbytes), row)
    torch.testing.assert_close(engine.token_logprobs(row), base, rtol=0, atol=1e-5)
    engine_step(engine, 0)
    torch.testing.assert_close(engine.base_logprobs(row), base, rtol=0, atol=1e-5)

    save_adapter(engine.adapter(), lora, ArtifactRef("checkpoint", "ab" * 32, "checkpoint/ab-12"), tmp_path)
    opened = PeftModel.from_pretrained(rounded(make_model(kind, VOCABULARY), bitsandbytes), tmp_path)
    sampler = make_model(kind, VOCABULARY)
    state = engine.state_dict()
    assert state is not None and state.keys() == sampler.state_dict().keys()
    load_by_name(sampler, engine.weights())
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = engine.module(input_ids=ids).logits
        torch.testing.assert_close(sampler(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(opened(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        unpacked = make_model(kind, VOCABULARY)(input_ids=ids).logits
        assert (expected - unpacked).abs().max() > 1e-3  # four bits and a step make a difference


@pytest.mark.parametrize(("zero_stage", "dtype"), [(0, torch.float32), (2, torch.bfloat16)])
def test_resuming_gives_the_same_bits_and_saves_no_base(
    zero_stage: Literal[0, 2], dtype: torch.dtype, bitsandbytes: Any, tmp_path: Path
) -> None:
    engine, resumed = check_resuming(tmp_path, lambda: make_engine(zero_stage, dtype, lora=SOME))
    merged = dict(resumed.weights())
    for name, tensor in engine.weights():
        assert tensor.dtype == dtype and torch.equal(tensor, merged[name])
    check_no_base_is_saved(tmp_path)


def test_without_the_package_or_under_zero_3_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValidationError, match=r"'nf4' with zero_stage = 3: .* set optimizer\.zero_stage to 0, 1"
    ):
        OptimizerConfig(zero_stage=3, lora=ALL)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        ValueError, match=r"base = 'nf4' needs the package bitsandbytes .*pip install bitsandbytes"
    ):
        add_adapters(tiny_model(VOCABULARY), ALL)
