"""A report of any two evaluations, with nights: comparisons, warnings and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.report.spec import ReportConfig
from tasks.shared.artifacts import ArtifactRef, Provenance, Store
from tasks.shared.reporting.evaluated import read_evaluated, shared_sets, unexpected_change, write_evaluation
from tasks.shared.reporting.samples import Sample
from tasks.shared.reporting.summary import summarize
from tests.integration.evaluation_world import report_request
from tests.integration.stages import in_process
from tests.unit.reporting.making import make_evaluation

SETS = ArtifactRef("evaluation_sets", "b" * 64, f"evaluation_sets/{'b' * 16}-{'0' * 8}")
CHECKPOINT = ArtifactRef("checkpoint", "a" * 64, f"checkpoint/{'a' * 16}-{'0' * 8}")


def publish(
    store: Store,
    samples: list[Sample],
    seed: int = 7,
    sets: ArtifactRef = SETS,
    environment_versions: dict[str, str] | None = None,
    **summary: Any,
) -> ArtifactRef:
    """An evaluation of `CHECKPOINT` as the stage would have published it."""
    numbers = summarize(samples)
    content = {"sets": {"held_out": numbers}, "allow_unsafe": False} | summary
    volatile = {"sampling_seconds": 1.0, "surroundings": environment_versions or {}}
    metrics = {"held_out/accuracy": numbers["accuracy"], "held_out/low": 0.1, "held_out/high": 0.9}
    inputs = {"checkpoint": CHECKPOINT, "evaluation_sets": sets}
    with store.staging("evaluation") as directory:
        write_evaluation(directory, samples, content, volatile)
        return store.publish("evaluation", directory, Provenance("evaluate", {}, seed, inputs), metrics)


def report(root: Path, inputs: dict[str, ArtifactRef], *names: str) -> tuple[str, dict[str, Any]]:
    """Page and metrics of a report, made in this process."""
    request = report_request(root, inputs)
    title = {"report": ReportConfig(title="Two", evaluations=names).model_dump(mode="json")}
    result = in_process(request.model_copy(update={"config": request.config | title}))
    return (Store(request.store).fetch(result.outputs["report"]) / "report.html").read_text(), dict(
        result.metrics
    )


def test_two_evaluations_and_their_nights(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    first = publish(store, make_evaluation(1, 30, 4, 0.2))
    protocol = {"samples_per_problem": 4, "temperature": 1.0, "top_p": 0.7, "dialect": "retool"}
    second = publish(store, make_evaluation(2, 30, 4, 0.7), seed=8, protocol=protocol)
    inputs = {"evaluation_demo/sft": first, "evaluation_demo/rl": second}
    nights = {"night_2026-11-01_promoted": first, "night_2026-11-02_promoted": second}
    html, metrics = report(tmp_path, inputs | nights, "demo/sft", "demo/rl")
    assert metrics["held_out/demo/rl-demo/sft/low"] > 0
    assert "demo/rl \u2212 demo/sft" in html and "<h1>Two</h1>" in html
    assert "Accuracy on held_out by night" in html and "night: 1 is 2026-11-01, 2 is 2026-11-02" in html
    assert 'role="alert"' not in html


def test_different_protocols_and_unexplained_samples_are_warned_of(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    first, second = (
        publish(
            store,
            make_evaluation(seed, 20, 2, 0.5),
            environment_versions={"torch": version, "threads": "1"},
            protocol={"samples_per_problem": 2, "temperature": heat, "top_p": 1.0, "dialect": "retool"},
        )
        for seed, version, heat in ((1, "2.12", 1.0), (2, "2.13", 0.6))
    )
    html, _ = report(tmp_path, {"evaluation_a": first, "evaluation_b": second}, "a", "b")
    warnings = html.split('id="scores"')[0]
    assert "different protocols (temperature 1.0 and 0.6)" in warnings
    assert "same checkpoint and seed, other samples on held_out" in warnings
    assert "surroundings.torch: 2.12 -&gt; 2.13" in warnings


def test_problems_that_only_share_a_name_are_not_compared(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    here = make_evaluation(1, 10, 2, 0.5)
    elsewhere = [replace(sample, problem=f"Another: {sample.problem}") for sample in here]
    other = ArtifactRef("evaluation_sets", "c" * 64, f"evaluation_sets/{'c' * 16}-{'0' * 8}")
    first, second = publish(store, here), publish(store, elsewhere, sets=other)
    html, metrics = report(tmp_path, {"evaluation_a": first, "evaluation_b": second}, "a", "b")
    assert "b and a have no problem in common here" in html and "held_out/b-a" not in metrics
    assert shared_sets(read_evaluated(store, first), read_evaluated(store, second)) == []


def test_an_evaluation_that_is_not_in_the_order_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    ref = publish(store, make_evaluation(1, 4, 2, 0.5))
    with pytest.raises(ValueError, match=r"'evaluation_b' is not in report.evaluations"):
        report(tmp_path, {"evaluation_a": ref, "evaluation_b": ref}, "a")


def test_identical_samples_need_no_explanation(tmp_path: Path) -> None:
    """Nor do samples of another seed. Other samples without a recorded difference get a warning."""
    store = Store(str(tmp_path / "store"))
    samples = make_evaluation(1, 6, 2, 0.5)
    first, other_seed = (read_evaluated(store, publish(store, samples, seed=seed)) for seed in (7, 8))
    others = read_evaluated(store, publish(store, make_evaluation(2, 6, 2, 0.5)))
    assert unexpected_change(first, first) is None
    assert unexpected_change(other_seed, others) is None
    reason = unexpected_change(first, others)
    assert reason is not None and "nothing that is recorded" in reason
    with pytest.raises(ValueError, match="a checkpoint, not an evaluation"):
        read_evaluated(store, CHECKPOINT)
