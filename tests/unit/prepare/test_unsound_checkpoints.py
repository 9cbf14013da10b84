"""Checkpoints that would fail late or be silently wrong are refused by `prepare` in one line, or corrected."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from tasks.prepare.base_model import place_base_model
from tasks.rl import main as rl
from tasks.shared.config import ModelConfig
from tasks.shared.learning.checkpoints import has_experts, load_model, load_tokenizer, save_checkpoint
from tests.unit.generation.tiny import tiny_model, tiny_tokenizer

LOADED = ModelConfig(source="tiny", dtype="float32")
SAMPLING = {"do_sample": False, "temperature": 0.6, "top_p": 0.95, "eos_token_id": 0}  # contradicts itself


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A valid checkpoint, which tests damage."""
    directory = tmp_path / "source"
    tokenizer = tiny_tokenizer()
    save_checkpoint(tiny_model(len(tokenizer)), tokenizer, directory)
    return directory


def place(source: Path, template_date: str = "") -> Path:
    target = source.with_name("target")
    target.mkdir()
    config = ModelConfig(source="path", path=str(source), dtype="float32", template_date=template_date)
    place_base_model(config, 0, target)
    return target


def change_weight(name: str, value: float) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        tensors = load_file(source / "model.safetensors")
        tensors[name].view(-1)[7] = value
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    return change


def add_another_head(source: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})


def leave_an_adapter(source: Path) -> None:
    (source / "config.json").unlink()
    (source / "model.safetensors").rename(source / "adapter_model.safetensors")
    (source / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))


def lose_a_shard(source: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="60KB")
    sorted(source.glob("model-*.safetensors"))[1].unlink()


def lose_a_shard_and_the_index(source: Path) -> None:
    lose_a_shard(source)
    (source / "model.safetensors.index.json").unlink()


def leave_a_pointer(name: str) -> Callable[[Path], None]:
    def leave(source: Path) -> None:
        (source / name).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 98765\n"
        )

    return leave


def empty_the_tokenizer(source: Path) -> None:
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|end|>")
    tokenizer.chat_template = tiny_tokenizer().chat_template
    tokenizer.save_pretrained(source)


def end_no_turn(source: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(source)


def break_the_template(source: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[5].content.missing }}"
    tokenizer.save_pretrained(source)


def change_json(name: str, **changed: object) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        path = source / name
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(content | changed))

    return change


def damage_the_index(source: Path) -> None:
    (source / "model.safetensors").rename(source / "model-00001-of-00002.safetensors")
    (source / "model.safetensors.index.json").write_text('{"weight_map": [["a"]]}')


def name_dated_templates(source: Path) -> None:
    (source / "chat_template.jinja").unlink()
    change_json("tokenizer_config.json", chat_template=["strftime_now", {"template": 5}])(source)


OWN_CODE = {
    "model_type": "own",
    "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
}
NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_weight(NORM, float("nan")), r"'model\.norm\.weight' holds NaN or infinite weights; use an"),
        (
            change_weight("model.layers.1.mlp.up_proj.weight", float("-inf")),
            r"up_proj.* holds NaN or infinite",
        ),
        (
            add_another_head,
            r"ties the output head to the embedding .* differ; set it to false there, or take",
        ),
        (leave_an_adapter, r"an adapter without its base \(some/base\); merge it"),
        (lose_a_shard, r"shard model-00002-of-0\d+\.safetensors is missing; download"),
        (lose_a_shard_and_the_index, r"shard model-00002-of-0\d+\.safetensors is missing; download"),
        (
            leave_a_pointer("model.safetensors"),
            r"model\.safetensors: a Git LFS pointer.*; run 'git lfs pull'",
        ),
        (leave_a_pointer("tokenizer.json"), r"tokenizer\.json: a Git LFS pointer"),
        (empty_the_tokenizer, r"makes no token of 'Compute 2 \+ 3\.'; its files are incomplete"),
        (end_no_turn, r"no end-of-turn token: .*; set eos_token in tokenizer_config\.json"),
        (break_the_template, r"its chat template cannot write an assistant's message .*; correct it"),
        (change_json("config.json", **OWN_CODE), r"contains custom code .*; use an undamaged one of an arch"),
        (change_json("config.json", model_type="bert"), r"weights do not fit config\.json, first bert\."),
        (change_json("config.json", vocab_size=10), r"weights do not fit config\.json, first model\.embed"),
        (change_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), r"GPTQ"),
        (damage_the_index, r"shard model-00002-of-00002\.safetensors is missing; download"),
        (name_dated_templates, r"its tokenizer cannot be opened|its chat template cannot write"),
    ],
)
def test_an_untrainable_checkpoint_is_refused_first(
    source: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(source)
    with pytest.raises(ValueError, match=message) as caught:
        place(source)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match=message):  # as do other stages that load a checkpoint
        load_tokenizer(source), load_model(source, LOADED)


def test_an_unsavable_generation_config_is_rewritten(source: Path, tmp_path: Path) -> None:
    (source / "generation_config.json").write_text(json.dumps(SAMPLING))
    placed = place(source)
    written = json.loads((placed / "generation_config.json").read_text())
    assert written["eos_token_id"] == 0 and not {"temperature", "top_p"} & written.keys()
    for directory in (placed, source):  # a model from elsewhere can be saved too
        model = load_model(directory, LOADED)
        save_checkpoint(model, load_tokenizer(directory), tmp_path / f"trained_{directory.name}")


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("generation_config.json", {"eos_token_id": "x"}, r"eos_token_id is not an id .*; correct it"),
        ("tokenizer_config.json", {}, r"tokenizer_config\.json: not JSON .*; download the file again"),
    ],
)
def test_odd_json_is_one_line_of_prepare(
    source: Path, name: str, changed: dict[str, object], message: str
) -> None:
    change_json(name, **changed)(source)
    if not changed:
        (source / name).write_text("{strftime_now")
    with pytest.raises(ValueError, match=message) as caught:
        place(source)
    assert len(str(caught.value).splitlines()) == 1


def test_a_valid_generation_config_is_kept(source: Path) -> None:
    (source / "generation_config.json").write_text(json.dumps(SAMPLING | {"do_sample": True}))
    written = json.loads((place(source) / "generation_config.json").read_text())
    assert (written["temperature"], written["top_p"], written["eos_token_id"]) == (0.6, 0.95, 0)


DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now( '%d %b %Y' ) %}{%- endif %}{%- endif %}"
    '{{ "Today: " + date_string + strftime_now("|%Y-%m-%d") + "\\n" }}'
)


@pytest.mark.parametrize("in_config", [True, False])
def test_the_date_of_a_template_is_that_of_the_artifact(
    source: Path, in_config: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = DATED + tiny_tokenizer().chat_template
    if in_config:
        (source / "chat_template.jinja").unlink()
        path = source / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    else:
        (source / "chat_template.jinja").write_text(template)
    placed = place(source, template_date="2025-03-04")

    class AnotherDay(datetime):
        @classmethod
        def now(cls, tz=None):  # type: ignore[no-untyped-def, override]
            return datetime(2031, 1, 1)

    def prompt(directory: Path) -> str:
        messages = [{"role": "user", "content": "Hi"}]
        return load_tokenizer(directory).apply_chat_template(messages, tokenize=False)

    today = prompt(source)
    monkeypatch.setattr(chat_template_utils, "datetime", AnotherDay)
    assert prompt(source) != today
    assert prompt(placed).startswith("Today: 04 Mar 2025|2025-03-04\n")


def test_a_date_that_cannot_be_fixed_is_refused(source: Path) -> None:
    (source / "chat_template.jinja").write_text("{{ strftime_now(format) }}" + tiny_tokenizer().chat_template)
    with pytest.raises(ValueError, match="writes today's date in a way that cannot be fixed; write a date"):
        place(source)
    with pytest.raises(ValueError, match=r"model\.template_date = '2025-02-30'"):
        ModelConfig(source="tiny", template_date="2025-02-30")


def test_experts_are_refused_for_rl(tmp_path: Path) -> None:
    for kind, expected in (("qwen3_moe", True), ("mixtral", True), ("qwen2", False), ("gemma3_text", False)):
        AutoConfig.for_model(kind).save_pretrained(tmp_path / kind)
        assert has_experts(tmp_path / kind) == expected, kind
    context = SimpleNamespace(
        config=None, request=SimpleNamespace(inputs={}), input=lambda name: tmp_path / "mixtral"
    )
    with pytest.raises(ValueError, match="no router replay; train a dense model by RL"):
        rl._load(context, None)  # type: ignore[arg-type]


def test_a_saved_checkpoint_names_every_end_of_a_turn(tmp_path: Path) -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model(400)
    tokenizer.eos_token = "<|user|>"
    model.generation_config.eos_token_id = [2]
    save_checkpoint(model, tokenizer, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [0, 1, 2]
    assert torch.equal(load_model(tmp_path, LOADED).model.norm.weight, model.model.norm.weight)
