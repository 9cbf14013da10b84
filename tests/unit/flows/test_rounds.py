"""Requests of stages: sources of inputs, the schedule of `rl.rounds`, the file of a reward function."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.orders import order_of
from flows.stages import inputs_of_round
from tasks.launch.run import Run, StageOrder
from tasks.recipes import load_recipe
from tasks.rl.task import rl
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageResult
from tasks.shared.runs.record import RunRecord

REF = ArtifactRef("checkpoint", "0" * 64, "checkpoint/0000000000000000-00000000")


def test_rounds_get_their_own_settings(tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text("def score(responses): return [0.0] * len(responses)")
    orders: list[StageOrder] = []

    def note(order: StageOrder) -> StageResult:
        orders.append(order)
        outputs = dict.fromkeys(("checkpoint", "rollouts", "trainer_state"), REF)
        return StageResult(outputs=outputs, metrics={})

    run = Run(
        "x", load_recipe("tiny_lengths", {"rl.reward": f"{reward}:score"}), store=str(tmp_path), dry_run=note
    )
    for number in (1, 2, 3):
        rl(run, number, REF, REF)
    assert [order.recipe["generation"]["max_response_tokens"] for order in orders] == [128, 176, 224]
    assert [order.recipe["traces"]["max_calls"] for order in orders] == [1, 2, 3]
    assert [order.recipe["rl"]["rounds"] for order in orders] == [3, 3, 3]
    assert {order.files for order in orders} == {(reward,)}


@pytest.mark.parametrize(
    ("label", "changes", "sources"),
    [
        ("sft", {}, {"checkpoint": ("prepare", "checkpoint"), "traces": ("synthesize", "traces")}),
        ("rl-1", {}, {"checkpoint": ("sft", "checkpoint"), "problems": ("prepare", "problems")}),
        (
            "rl-2",
            {"cold_start": False, "evaluate.checkpoints": [], "rl.rounds": 2, "rl.kl_coefficient": 0.1},
            {
                "checkpoint": ("rl-1", "checkpoint"),
                "problems": ("prepare", "problems"),
                "trainer_state": ("rl-1", "trainer_state"),
                "reference": ("prepare", "checkpoint"),
            },
        ),
    ],
)
def test_the_pipeline_says_where_inputs_come_from(
    tmp_path: Path, label: str, changes: dict[str, Any], sources: dict[str, tuple[str, str]]
) -> None:
    order, found = order_of(Run("x", load_recipe("tiny", changes), store=str(tmp_path)), label)
    assert (order.label, found) == (label, sources)


def test_a_round_by_itself_reads_what_its_own_changes_need(tmp_path: Path) -> None:
    """Only the second round is evaluated while it trains, and there may be a third one."""
    rounds = {"rl.rounds": [{}, {"rl": {"evaluate_every_steps": 1}}]}
    run, record = Run("x", load_recipe("tiny", rounds), store=str(tmp_path)), RunRecord(run="x", recipe={})
    assert ["evaluation_sets" in inputs_of_round(run, record, number) for number in (1, 2)] == [False, True]
    whole = replace(run, recipe=load_recipe("tiny", {"rl.rounds": 2}))
    assert inputs_of_round(whole, record, 3)["trainer_state"] == ("rl-2", "trainer_state")


def test_an_unknown_stage_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^stage 'rl-9': the pipeline of run 'x' has prepare, .*rl-1, .*report$"
    ):
        order_of(Run("x", load_recipe("tiny"), store=str(tmp_path)), "rl-9")
