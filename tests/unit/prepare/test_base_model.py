"""The base model: made from a seed, copied from a directory, refused if it could run code or change."""

import filecmp
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.problems import Split, generate
from tasks.prepare.base_model import place_base_model
from tasks.prepare.tiny_tokenizer import train_tokenizer
from tasks.shared.config import ModelConfig, TinyModel
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_trace

TINY = ModelConfig(source="tiny", dtype="float32")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    place_base_model(TINY, 0, directory)
    return directory


def test_the_tiny_checkpoint_opens_as_any_other(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert 700_000 < model.num_parameters() < 1_300_000
    assert model.config.model_type == "qwen2"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert len(tokenizer) == model.config.vocab_size
    assert not list(checkpoint.glob("*.bin"))


def test_the_same_seed_gives_the_same_bytes(checkpoint, tmp_path):
    place_base_model(TINY, 0, tmp_path)
    names = sorted(path.name for path in checkpoint.iterdir())
    assert filecmp.cmpfiles(checkpoint, tmp_path, names, shallow=False)[0] == names
    other = tmp_path / "other"
    other.mkdir()
    place_base_model(TINY, 1, other)
    assert not filecmp.cmp(checkpoint / "model.safetensors", other / "model.safetensors", shallow=False)


def test_digits_are_single_tokens_and_text_survives(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with_digits = [
        token for token in tokenizer.get_vocab() if any(c.isascii() and c.isdigit() for c in token)
    ]
    assert sorted(with_digits) == list("0123456789")
    for text in (
        "print(pow(23, 145, 617))",
        "été ≤ 7\n\tx  = 1\n",
        *(p.problem for p in generate(Split.TRAIN, 40, 3)),
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_traces_are_short_and_end_where_a_turn_ends(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    trace = (
        "Let me run a short program.\n<code>\n```python\nprint(pow(23, 145, 617))\n```\n</code>"
        "\n<interpreter>\n88\n</interpreter>\nThe output is the answer.\n<answer>\n\\boxed{88}\n</answer>"
    )
    problem = "Find the remainder when 23^145 is divided by 617."
    encoded = encode_trace(tokenizer, DIALECTS["retool"], problem, trace, instructed=False)
    assert len(encoded.prompt_ids) + len(encoded.response_ids) <= 100
    assert tokenizer.decode(encoded.response_ids) == trace + "<|im_end|>"
    # generation stops at the stop string, so no token may extend beyond it
    assert all("</code>" not in token or token.endswith("</code>") for token in tokenizer.get_vocab())


def test_the_chat_template_is_qwens(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.encode("<|im_start|>") == [tokenizer.convert_tokens_to_ids("<|im_start|>")]


def test_a_vocabulary_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match=r"model\.tiny\.vocabulary = 200 is too small"):
        train_tokenizer(200, 0, 128)
    with pytest.raises(ValueError, match="use 512 or more"):
        place_base_model(ModelConfig(source="tiny", tiny=TinyModel(vocabulary=100)), 0, Path("unused"))


def test_a_local_directory_is_copied_without_its_pickles(checkpoint, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for path in checkpoint.iterdir():
        (source / path.name).symlink_to(path)
    (source / "training_args.bin").write_bytes(b"pickle")
    count = place_base_model(ModelConfig(source="path", path=str(source)), 0, target)
    assert count == AutoModelForCausalLM.from_pretrained(checkpoint).num_parameters()
    assert not (target / "training_args.bin").exists()
    assert not any(path.is_symlink() for path in target.iterdir())


def spoil(directory: Path, what: str) -> None:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    if what == "pickle":
        (directory / "pytorch_model.bin").write_bytes(b"pickle")
    if what == "no template":
        (directory / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 5}))
    if what == "no config":
        (directory / "config.json").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "pickle",
            r"pytorch_model\.bin: weights in a pickle, which can run code when opened; save them as safetensors, with",
        ),
        ("no weights", r"no \*\.safetensors; give a complete save_pretrained directory"),
        ("no template", r"its tokenizer has no chat template; use an instruction-tuned model"),
        ("no config", r"no config\.json there; give a save_pretrained directory"),
    ],
)
def test_a_directory_that_is_no_safe_checkpoint_is_refused(tmp_path, what, message):
    spoil(tmp_path / "source", what)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(ValueError, match=message):
        place_base_model(ModelConfig(source="path", path=str(tmp_path / "source")), 0, target)


def test_a_hub_revision_that_can_move_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.revision 'main' is not a commit hash of 40 hex digits"):
        place_base_model(ModelConfig(source="hub", id="a/b", revision="main"), 0, tmp_path)


def test_a_hub_model_is_read_from_the_hubs_cache(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    revision = "7ae557604adf67be50417f59c2c2f167def9a775"
    shutil.copytree(checkpoint, tmp_path / "hub" / "models--own--tiny" / "snapshots" / revision)
    target = tmp_path / "target"
    target.mkdir()
    assert place_base_model(ModelConfig(source="hub", id="own/tiny", revision=revision), 0, target) > 700_000
    assert filecmp.cmp(checkpoint / "model.safetensors", target / "model.safetensors", shallow=False)
    with pytest.raises(ValueError) as refused:
        place_base_model(ModelConfig(source="hub", id="own/other", revision=revision), 0, target)
    assert "model.id 'own/other' at 7ae557604adf: cannot download" in str(refused.value)
    assert "or use model.source = 'path'" in str(refused.value)
