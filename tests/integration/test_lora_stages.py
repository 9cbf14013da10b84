"""Adapters through the stages: SFT, then rounds of RL with the base as reference; outputs and their base."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.artifacts.lineage import lineage
from tasks.shared.learning.checkpoints import load_model, load_tokenizer
from tests.integration.rl_world import MODEL, OPTIMIZER, make_request, make_store
from tests.integration.sft_world import make_request as make_sft_request
from tests.integration.stages import in_process, outputs_of, read_lines, run_to_end
from tests.integration.test_rl_round import FAST
from tests.integration.test_sft_stage import metrics_of

LORA = {"rank": 4, "alpha": 16}
ROUND = {**FAST, "kl_coefficient": 0.1, "drop_equal_rewards": False}


def lora_round(
    root: Path, inputs: dict[str, ArtifactRef], name: str, base: str = "as_loaded"
) -> dict[str, ArtifactRef]:
    """The outputs of a round of three steps with adapters."""
    optimizer = OPTIMIZER.model_dump() | {"lora": LORA | {"base": base}, "learning_rate": 1e-2}
    return in_process(make_request(root, inputs, name, optimizer=optimizer, **ROUND)).outputs


def require_base_and_adapter(
    store: Store, outputs: dict[str, ArtifactRef], base: ArtifactRef, rounding: float = 1e-4
) -> None:
    """Check that the checkpoint is PEFT's merge of base and adapter, and that the adapter's base is `base`.

    `rounding`: of logits, which grows with them.
    """
    merged = load_model(store.fetch(outputs["checkpoint"]), MODEL)
    load_tokenizer(store.fetch(outputs["checkpoint"]))
    opened = PeftModel.from_pretrained(load_model(store.fetch(base), MODEL), store.fetch(outputs["adapter"]))
    assert opened.peft_config["default"].revision == base.digest
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        difference = (opened(input_ids=ids).logits - merged(input_ids=ids).logits).abs().max()
        moved = (
            merged(input_ids=ids).logits - load_model(store.fetch(base), MODEL)(input_ids=ids).logits
        ).abs()
    assert difference < rounding < moved.max()
    assert base.digest in {
        entry.digest for entry in store.manifest(outputs["adapter"]).provenance.inputs.values()
    }


def test_sft_publishes_adapter_and_merged_checkpoint(tmp_path: Path) -> None:
    request = make_sft_request(tmp_path, epochs=4)
    section = request.config["sft"]
    changed = {**section, "optimizer": {**section["optimizer"], "lora": LORA, "learning_rate": 2e-2}}
    request = request.model_copy(update={"config": {**request.config, "sft": changed}})
    run_to_end(tmp_path, request)
    metrics = metrics_of(tmp_path)
    assert metrics[-1]["loss"] < 0.9 * metrics[0]["loss"]
    outputs = outputs_of(tmp_path)
    require_base_and_adapter(Store(request.store), outputs, request.inputs["checkpoint"])


def test_rounds_train_one_adapter_over_one_base(tmp_path: Path) -> None:
    inputs = make_store(tmp_path)
    store, base = Store(str(tmp_path / "store")), inputs["checkpoint"]
    first = lora_round(tmp_path, inputs, "first")
    metrics = read_lines(store.fetch(first["checkpoint"]) / "metrics.jsonl")
    assert metrics[0]["kl_reference"] == pytest.approx(0, abs=1e-6) and metrics[-1]["kl_reference"] > 1e-6
    assert max(line["probe_gap"] for line in metrics) < 1e-4  # of the merged weights in the sampler
    require_base_and_adapter(store, first, base)

    carried = {**inputs, "checkpoint": first["checkpoint"], "trainer_state": first["trainer_state"]}
    with pytest.raises(ValueError, match="a later round needs input 'reference': the base of the adapters"):
        lora_round(tmp_path, carried, "without")
    with pytest.raises(ValueError, match="is not the base of the adapters"):
        lora_round(tmp_path, {**carried, "reference": first["checkpoint"]}, "other")
    second = lora_round(tmp_path, {**carried, "reference": base}, "second")
    require_base_and_adapter(store, second, base)
    assert {base, first["trainer_state"]} <= lineage(store, second["adapter"]).keys()


@pytest.mark.long
def test_a_round_over_a_base_in_four_bits_samples_from_what_it_trains(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="QLoRA was not tested: pip install bitsandbytes")
    made = lora_round(tmp_path, make_store(tmp_path), "packed", base="nf4")
    store = Store(str(tmp_path / "store"))
    metrics = read_lines(store.fetch(made["checkpoint"]) / "metrics.jsonl")
    assert metrics[0]["kl_reference"] == pytest.approx(0, abs=1e-6) and metrics[-1]["kl_reference"] > 1e-6
    assert max(line["probe_gap"] for line in metrics) < 1e-4
    settings = store.manifest(made["checkpoint"]).provenance.config["rl"]["optimizer"]["lora"]
    assert settings["base"] == "nf4"
    assert load_model(store.fetch(made["checkpoint"]), MODEL).dtype == torch.float32
