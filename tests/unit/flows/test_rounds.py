"""What each RL round of a run is ordered with: the schedule of `rl.rounds`, the source of a reward function."""

from pathlib import Path

from tasks.launch.run import Run, StageOrder
from tasks.recipes import load_recipe
from tasks.rl.task import rl
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageResult

REF = ArtifactRef("checkpoint", "0" * 64, "checkpoint/0000000000000000-00000000")


def test_rounds_are_ordered_with_what_changes_in_them(tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text("def score(responses): return [0.0] * len(responses)")
    orders: list[StageOrder] = []

    def plan(order: StageOrder) -> StageResult:
        orders.append(order)
        outputs = dict.fromkeys(("checkpoint", "rollouts", "trainer_state"), REF)
        return StageResult(outputs=outputs, metrics={})

    run = Run(
        "x", load_recipe("tiny_lengths", {"rl.reward": f"{reward}:score"}), store=str(tmp_path), planner=plan
    )
    for number in (1, 2, 3):
        rl(run, number, REF, REF)
    assert [order.recipe["generation"]["max_response_tokens"] for order in orders] == [128, 176, 224]
    assert [order.recipe["traces"]["max_calls"] for order in orders] == [1, 2, 3]
    assert [order.recipe["rl"]["rounds"] for order in orders] == [3, 3, 3]
    assert {order.files for order in orders} == {(reward,)}
