"""A model that trainer and sampler would compute differently is refused in one line when it is loaded."""

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tasks.shared.config import OptimizerConfig
from tasks.shared.generation.transformers_engine import TransformersGenerator
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.own_forward import SHORT, short_windows
from tests.unit.generation.architectures import make_model
from tests.unit.generation.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def train(model: PreTrainedModel, zero_stage: int = 0) -> None:
    config = OptimizerConfig.model_validate({"zero_stage": zero_stage})
    TrainingEngine(model, config, total_steps=1)


def sample(model: PreTrainedModel) -> None:
    TransformersGenerator(model, TOKENIZER, 2)


def gemma2() -> PreTrainedModel:
    """It caps attention scores. SDPA cannot, so Transformers computes without the cap."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        initializer_range=0.2,
        attn_logit_softcapping=0.5,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def scaled_behind_the_body(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model whose body's states depend on the whole row in its own pass."""
    model = make_model("qwen2", len(TOKENIZER)).to(dtype)
    body = model.model.forward
    model.model.forward = lambda *args, **kwargs: _scaled(body(*args, **kwargs))  # type: ignore[method-assign]
    return model


def _scaled(output):  # type: ignore[no-untyped-def]
    output.last_hidden_state = output.last_hidden_state * (1 + output.last_hidden_state.shape[1])
    return output


@pytest.mark.parametrize("load", [train, sample])
@pytest.mark.parametrize("make", [gemma2, scaled_behind_the_body])
def test_another_result_than_the_models_own_is_refused(
    load: Callable[[PreTrainedModel], None], make: Callable[[], PreTrainedModel]
) -> None:
    with pytest.raises(ValueError, match=r"differ by [\d.e+]+ from those of its own forward pass") as caught:
        load(make())
    assert len(str(caught.value).splitlines()) == 1


def test_the_reference_attention_trains_what_sdpa_cannot() -> None:
    model = gemma2()
    with pytest.raises(ValueError, match=r"set model\.attention = 'eager'"):
        train(model)
    model.set_attn_implementation("eager")
    train(model)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_half_precision_has_a_bound_of_its_own(zero_stage: int) -> None:
    for kind in ("gemma3_text", "mistral"):
        train(make_model(kind, len(TOKENIZER)).to(torch.bfloat16), zero_stage)
    with pytest.raises(ValueError, match=r"\(at most 0\.25\)"):
        train(scaled_behind_the_body(torch.bfloat16), zero_stage)


def test_an_unsupported_architecture_is_refused_in_one_line() -> None:
    config = AutoConfig.for_model(
        "mpt", vocab_size=len(TOKENIZER), d_model=32, n_heads=4, n_layers=2, expansion_ratio=2
    )
    for load in (train, sample):
        with pytest.raises(ValueError, match="model type 'mpt'") as caught:
            load(AutoModelForCausalLM.from_config(config).eval())
        assert len(str(caught.value).splitlines()) == 1


def test_real_windows_are_checked_at_a_few_tokens() -> None:
    model = make_model("gemma3_text", len(TOKENIZER), sliding_window=4096, max_position_embeddings=8192)
    with short_windows(model):
        assert model.config.sliding_window == SHORT
        assert {layer.self_attn.sliding_window for layer in model.model.layers} == {SHORT, None}
    assert model.config.sliding_window == 4096
    assert {layer.self_attn.sliding_window for layer in model.model.layers} == {4096, None}
    train(model)
    sample(model)
    assert model.config.sliding_window == 4096
