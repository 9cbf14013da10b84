"""Samples drawn again from a checkpoint: the certificate's own gives equal ids, another does not."""

from pathlib import Path

import pytest

from flows.commands.prove import share_of
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.prove.certify import certify
from tasks.prove.evidence import open_evidence
from tasks.prove.findings import CHANGED, MODEL
from tasks.prove.resample import sample_again
from tasks.shared.artifacts import Store
from tasks.shared.config import EvaluateStage
from tests.integration.evaluation_world import SHAPE, evaluate_request
from tests.integration.stages import in_process


def test_samples_are_drawn_again(tmp_path: Path) -> None:
    request = evaluate_request(tmp_path, samples_per_problem=2)
    config = EvaluateStage.model_validate(request.config)
    config = config.model_copy(update={"sandbox": config.sandbox.model_copy(update={"preload": ()})})
    request = request.model_copy(update={"config": config.model_dump(mode="json")})
    store = Store(request.store)
    evaluation = in_process(request).outputs["evaluation"]
    certify(store, evaluation, "mine", {}, tmp_path / "mine")
    evidence = open_evidence(tmp_path / "mine", tmp_path)

    own = store.fetch(request.inputs["checkpoint"])
    files, samples = sample_again(evidence, own, 0.3, 5, lambda line: None)
    assert files.holds and files.checked > 3
    assert samples.checked == 5 and samples.holds, samples.differences

    make_tiny_checkpoint(SHAPE, 4, tmp_path / "another")
    files, samples = sample_again(evidence, tmp_path / "another", 0.3, 5, lambda line: None)
    assert set(files.kinds) == {CHANGED}
    assert "model.safetensors" in [difference.where for difference in files.differences]
    assert samples.kinds == {MODEL: 5}


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("5 %", 0.05), ("0.5", 0.5), ("100%", 1.0)])
def test_shares(text: str, share: float) -> None:
    assert share_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "101%", "some", "-1%"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 5% or 0\.05"):
        share_of(text)
