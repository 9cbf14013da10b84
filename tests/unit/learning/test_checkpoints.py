"""Checkpoints are loaded as they were saved; pickles, damage and missing files are one-line errors."""

import json
from pathlib import Path

import pytest
import torch

from tasks.shared.config import ModelConfig
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.logprobs import use_packed_attention
from tests.unit.generation.tiny import tiny_model, tiny_tokenizer

CONFIG = ModelConfig(source="tiny", dtype="float32")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny model saved with the attention of training."""
    model = tiny_model(400)
    use_packed_attention(model)
    save_checkpoint(model, tiny_tokenizer(), tmp_path)
    return tmp_path


def test_what_is_saved_is_loaded_again(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, CONFIG), load_tokenizer(checkpoint)
    saved = tiny_model(400).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    assert sorted(path.name for path in checkpoint.iterdir() if path.suffix == ".safetensors")


def test_the_dtype_of_the_recipe_is_used(checkpoint: Path) -> None:
    config = ModelConfig(source="tiny", dtype="bfloat16")
    assert load_model(checkpoint, config).dtype == torch.bfloat16


def test_saving_twice_gives_the_same_bytes(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    again = tmp_path_factory.mktemp("again")
    save_checkpoint(load_model(checkpoint, CONFIG), load_tokenizer(checkpoint), again)
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def refuse(checkpoint: Path, message: str) -> None:
    """The checkpoint must be refused with one line that matches."""
    with pytest.raises(ValueError, match=message) as caught:
        load_model(checkpoint, CONFIG)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pickle_is_refused_unopened(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    refuse(checkpoint, r"pytorch_model\.bin: weights in a pickle")


def test_damaged_weights_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refuse(checkpoint, "weights are damaged")


def test_missing_weights_are_refused_rather_than_made_up(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    refuse(checkpoint, r"do not fit config\.json, first model\.layers\.1\.mlp\.up_proj\.weight")


def test_weights_of_another_shape_are_refused(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    refuse(checkpoint, r"do not fit config\.json, first model\.layers\.0\.mlp\.down_proj\.weight")


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, r"no config\.json")
    with pytest.raises(ValueError, match=r"no tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_flash_attention_that_is_not_installed_is_named(checkpoint: Path) -> None:
    config = ModelConfig(source="tiny", dtype="float32", attention="flash_attention_2")
    with pytest.raises(ValueError, match="needs the package flash-attn"):
        load_model(checkpoint, config)
