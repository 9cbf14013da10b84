"""`tirflow publish` against a stand-in for a hub: uploaded files, their card, and each mistake in one line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard

from flows.commands.cli import main
from tasks.publish.recipe_file import recipe_toml
from tasks.recipes import load_recipe
from tasks.shared.artifacts import Store
from tasks.shared.config.endpoint import ServedModel
from tests.artifacts import publish
from tests.integration.certificate_world import (
    STEADY,
    certificate_stage,
    publish_evaluation,
    publish_inputs,
    take_samples,
)
from tests.integration.stand_in_hub import Hub, stand_in_hub

TOKEN = "hf_secret_of_a_test"
HUB_MODEL = {"source": "hub", "id": "Qwen/Qwen3-4B", "revision": "1" * 40}
DATA = {
    "train": [
        {"name": "dapo", "source": "registry", "id": "dapo_math_17k"},
        {"name": "mine", "source": "file", "path": "/home/somebody/secret|place.jsonl"},
    ],
    "evaluation": [{"name": "aime", "source": "registry", "id": "aime_2025"}],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A checkpoint of SFT with an evaluation, its adapter, its traces, and a checkpoint without an evaluation."""
    store = Store(str(tmp_path_factory.mktemp("publish") / "store"))
    inputs = publish_inputs(store)
    publish_evaluation(store, inputs, take_samples(store, inputs, STEADY))
    return store


@pytest.fixture
def hub(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with stand_in_hub(TOKEN) as hub:
        monkeypatch.setenv("TIRFLOW_STORE", store.root)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(
            "huggingface_hub.constants.HF_HUB_DISABLE_XET", True
        )  # the stand-in has no such storage
        yield hub


def location(store: Store, kind: str) -> str:
    (found,) = [name for name in store.locations() if name.startswith(f"{kind}/")]
    return found


def test_a_checkpoint_arrives_with_card_certificate_and_recipe(
    hub: Hub, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = location(store, "checkpoint")
    assert main(["publish", checkpoint, "me/small", "--licence", "mit", "--private"]) == 0
    captured = capsys.readouterr()
    assert (
        captured.out.strip() == f"{hub.endpoint}/me/small/commit/{'1' * 40}"
        and TOKEN not in captured.out + captured.err
    )
    files = hub.files["models/me/small"]
    source = store.fetch(store.read(checkpoint).ref)
    assert files["model.safetensors"] == (source / "model.safetensors").read_bytes()
    assert files["tokenizer.json"] == (source / "tokenizer.json").read_bytes()
    assert hub.created[0]["visibility"] == "private" and "manifest.json" not in files

    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit" and card.data.eval_results[0].metric_value == 0.5
    assert "| sums | 50.0 % | 0.0 % to 100.0 % | 3 | 2 | 0 |" in card.text
    certificate = tmp_path / "certificate.tar"
    certificate.write_bytes(files["certificate.tar"])
    digest = card.text.partition("--expect ")[2][:64]
    assert main(["check", str(certificate), "--expect", digest]) == 0

    (tmp_path / "recipe.toml").write_bytes(files["recipe.toml"])
    recipe, config = load_recipe(str(tmp_path / "recipe.toml")), certificate_stage()
    assert (recipe.traces, recipe.sandbox, recipe.generation) == (
        config.traces,
        config.sandbox,
        config.generation,
    )
    assert recipe.model.dtype == config.model.dtype


def test_a_dry_run_writes_the_folder_and_needs_no_token(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIRFLOW_STORE", store.root)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    checkpoint, folder = location(store, "checkpoint"), tmp_path / "folder"
    arguments = ["publish", checkpoint, "me/small", "--dry-run", str(folder)]
    assert main([*arguments, "--without-certificate"]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    assert {"README.md", "recipe.toml", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "certificate.tar").exists()
    assert "certificate.tar" not in (folder / "README.md").read_text()
    assert main(arguments) == 2 and "exists already" in capsys.readouterr().err
    assert main(arguments[:3]) == 2 and "HF_TOKEN is not set" in capsys.readouterr().err


def test_adapter_and_traces(
    hub: Hub, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base by its hub id; licences of every source; no path of this machine in any card."""
    own = Store(str(tmp_path / "store"))
    prepared = {"model": HUB_MODEL, "data": DATA}
    base = publish(own, "checkpoint", {"config.json": "{}"}, stage="prepare", config=prepared)
    rows = "---\nconfigs:\n- config_name: default\n  data_files: train.parquet\n---\n\n# Traces\n\nSome.\n"
    teacher = {"mode": "rewrite", "teacher": {"model": "/models/big"}, "source": {"source": "file"}}
    files = {"README.md": rows, "train.parquet": "x"}
    config = {"synthesize": teacher}
    traces = publish(own, "traces", files, {"base": base}, stage="synthesize", config=config)
    sft = {"sft": {"epochs": 3.0, "optimizer": {"learning_rate": 0.5}}}
    inputs = {"checkpoint": base, "traces": traces}
    adapter_config = json.dumps({"base_model_name_or_path": base.location, "revision": base.digest})
    adapter = publish(
        own, "adapter", {"adapter_config.json": adapter_config}, inputs, stage="sft", config=sft
    )
    files = {"tokenizer.json": "{}", "model.safetensors": "x"}
    publish(own, "checkpoint", files, inputs, stage="sft", config=sft)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIRFLOW_STORE", own.root)
        assert main(["publish", adapter.location, "me/lora"]) == 2
        assert "no evaluation of it in this store" in capsys.readouterr().err
        assert main(["publish", adapter.location, "me/lora", "--without-evaluation"]) == 0
        assert main(["publish", traces.location, "me/traces", "--licence", "cc-by-4.0"]) == 0
        assert main(["publish", "adapter", "me", "--without-evaluation"]) == 2
        assert "write OWNER/NAME" in capsys.readouterr().err

    files = hub.files["models/me/lora"]
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("Qwen/Qwen3-4B", "1" * 40)
    assert "tokenizer.json" in files and "model.safetensors" not in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == "Qwen/Qwen3-4B" and card.data.library_name == "peft"
    assert (
        "epochs = 3.0, optimizer.learning_rate = 0.5" in card.text and "None: it was published" in card.text
    )
    dataset = DatasetCard(hub.files["datasets/me/traces"]["README.md"].decode())
    assert dataset.data.to_dict()["configs"][0]["data_files"] == "train.parquet"
    assert hub.files["datasets/me/traces"]["train.parquet"] == b"x"
    for text in (card.text, dataset.text):
        assert "| dapo | training | BytedTsinghua-SIA/DAPO-Math-17k at " in text
        assert "apache-2.0 on the card; problems are copyright of the Mathematical Association" in text
        assert "a local file (secret\\|place.jsonl)" in text and "/home/somebody" not in text
        assert "/models" not in text and "| big | teacher |" in text


@pytest.mark.parametrize(
    ("refuse", "expected"),
    [
        ((401, f"no such token {TOKEN}"), "HF_TOKEN is not one of its tokens"),
        ((403, "forbidden"), "HF_TOKEN may not write to me/small"),
        (None, "check the network and HF_ENDPOINT"),
    ],
)
def test_a_hub_that_refuses_is_one_line_without_the_token(
    hub: Hub,
    store: Store,
    refuse: tuple[int, str] | None,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if refuse is None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub.refuse = refuse
    problems = location(store, "problems")
    assert main(["publish", problems, "me/small"]) == 2
    assert "a problems is not published" in capsys.readouterr().err
    checkpoint = location(store, "checkpoint")
    assert main(["publish", checkpoint, "me/small", "--without-evaluation"]) == 2
    err = capsys.readouterr().err
    assert expected in err.splitlines()[-1] and TOKEN not in err and len(err.splitlines()) == 2


def test_the_recipe_names_no_place_of_this_site() -> None:
    config = certificate_stage()
    sandbox = config.sandbox.model_copy(update={"address": "tcp:sandbox.inner:9", "allow_unsafe": True})
    model = config.model.model_copy(update={"source": "path", "path": "/home/somebody/model"})
    endpoint = ServedModel(model="m", base_url="http://model.inner/v1")
    evaluate = config.evaluate.model_copy(update={"endpoint": endpoint})
    text = recipe_toml(config.model_copy(update={"sandbox": sandbox, "model": model, "evaluate": evaluate}))
    assert "inner" not in text and "somebody" not in text and "allow_unsafe" not in text
