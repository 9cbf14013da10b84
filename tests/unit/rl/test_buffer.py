"""The buffer between sampler and trainer, and its journal: a kill after any line loses and repeats nothing."""

import json
import random
from array import array
from collections import Counter
from pathlib import Path

import pytest

from tasks.rl.buffer import Buffer
from tasks.rl.config import RlConfig
from tasks.rl.experience import Graded
from tasks.rl.journal import Account, Journal
from tasks.rl.problems import RlProblem, draw_problems
from tasks.shared.generation.interleave import RolloutRequest
from tasks.shared.traces.trajectory import CodeCall, FinishReason, Trajectory

PROBLEMS = [RlProblem(f"p{i}", "1", "", (1, 2)) for i in range(7)]
SIZE, LAST_STEP = 2, 6


def config(**changes: object) -> RlConfig:
    settings = {"prompts_per_step": SIZE, "samples_per_prompt": 2, "staleness": 2, **changes}
    return RlConfig(**settings)  # type: ignore[arg-type]


def open_buffer(directory: Path, **changes: object) -> Buffer:
    return Buffer(
        directory, config(**changes), PROBLEMS, seed=1, data_seed=2, first_draw=0, last_step=LAST_STEP
    )


def trajectory(request: RolloutRequest, step: int) -> Trajectory:
    """Four tokens with a call; the first two were sampled with the weights after `step` steps."""
    call = CodeCall("print(1)", "ok", "1", 0.5, 2, 3)
    return Trajectory(
        request.problem_id,
        request.sample,
        request.prompt_ids,
        array("i", (5, 6, 7, 8)),
        array("b", (1, 1, 0, 1)),
        array("f", (-0.1, -0.2, 0.0, -0.3)),
        (call,),
        FinishReason.EOS,
        "abcd",
        "ab\nd",
        shown=((2, 3),),
        wrote_code=True,
        versions=((step, 2), (step + 1, 1)),
    )


def graded(made: Trajectory, outcome: float) -> Graded:
    return Graded(made, 0, "", outcome > 0, "equal", outcome, outcome / 3)


def finish(buffer: Buffer, requests: list[RolloutRequest], step: int, equal: bool = False) -> None:
    """Return all samples of one draw, one of them wrong or none."""
    for request in requests:
        group = buffer.add(trajectory(request, step))
    rows = [graded(made, 1.0 if equal or made.sample else -1.0) for made in group]
    draw = int(requests[0].problem_id)
    buffer.write(draw, rows)
    buffer.keep(draw, rows)


def test_problems_and_seeds_are_those_of_synchronous_steps(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path)
    drawn = [buffer.draw(0) for _ in range(4)]
    expected = [problem for step in range(2) for problem in draw_problems(PROBLEMS, SIZE, step, 2)]
    assert [buffer.problem(int(requests[0].problem_id)) for requests in drawn] == expected
    assert len({request.seed for requests in drawn for request in requests}) == 8
    assert len({request.id for requests in drawn for request in requests}) == 8


def test_draws_are_bounded_by_staleness(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path)
    drawn = []
    while buffer.may_draw(0, 0):
        drawn.append(buffer.draw(0))
    assert len(drawn) == 3 * SIZE
    for requests in drawn[:SIZE]:
        finish(buffer, requests, 0)
    assert buffer.take(0) is not None
    assert not buffer.may_draw(0, 0)  # groups in training keep their places until the step is done
    buffer.end_step()
    assert buffer.may_draw(1, 1)
    assert not buffer.may_draw(1, 0)  # by older weights: two steps can use it, and four groups are open
    assert not buffer.may_draw(LAST_STEP - 2, LAST_STEP - 2)  # two steps are left for the four open groups


def test_the_oldest_go_first_and_stale_groups_are_dropped(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path)
    slow, first, second, third = (buffer.draw(0) for _ in range(4))
    finish(buffer, third, 1)
    finish(buffer, first, 0)
    finish(buffer, second, 0)
    taken = buffer.take(0)
    assert taken is not None and [row.group for row in taken] == [0, 0, 1, 1]
    drawn = [buffer.problem(int(requests[0].problem_id)).id for requests in (first, second)]
    assert [row.trajectory.problem_id for row in taken[::2]] == drawn
    assert buffer.take(3) is None  # the third was started two steps before, and the bound is one
    assert buffer.journal.account.dropped == {0: "stale: begun after step 0, not whole at step 4"}
    assert buffer.add(trajectory(slow[0], 0)) == []  # it comes too late
    assert buffer.take(4) is None
    assert buffer.journal.account.dropped[3] == "stale: begun after step 1, waited until step 5"


def test_groups_of_equal_rewards_are_replaced_up_to_a_limit(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path, resample_attempts=2)
    for _ in range(3):
        finish(buffer, buffer.draw(0), 0, equal=True)
    finish(buffer, buffer.draw(0), 0)
    assert len(taken := buffer.take(0) or []) == 4 * 2  # twice two groups, one of which has a gradient
    assert {row.group for row in taken} == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_any_line_each_draw_is_trained_once_or_dropped(tmp_path: Path, seed: int) -> None:
    """A round over the real buffer whose process ends after any number of journal lines, the last perhaps torn."""
    moments = random.Random(seed)
    trained: dict[int, list[str]] = {}  # by step: draws that the current weights were trained on
    saved, kills = 0, 0
    while saved < LAST_STEP:
        buffer = open_buffer(tmp_path)
        lines = moments.randrange(1, 12)
        saved = play(buffer, saved, trained, moments, lines)
        if saved < LAST_STEP:
            kills += 1
            if moments.random() < 0.5:
                with buffer.journal.path.open("a") as file:
                    file.write('{"event": "dropped", "dr')
    buffer.end()
    account = Journal(buffer.journal.path).account
    assert kills > 1 and not account.open
    uses = Counter(draw for draws in account.taken.values() for draw in draws)
    assert set(uses.values()) == {1} and not uses.keys() & account.dropped.keys()
    assert uses.keys() | account.dropped.keys() == account.drawn.keys() == set(range(buffer.next_draw))
    assert all(account.dropped.values())
    expected = {step: [buffer.problem(draw).id for draw in draws] for step, draws in account.taken.items()}
    assert trained == expected and sorted(trained) == list(range(1, LAST_STEP + 1))


def play(
    buffer: Buffer, saved: int, trained: dict[int, list[str]], moments: random.Random, lines: int
) -> int:
    """Run sampler and trainer in turn until the journal has grown by `lines`.

    Returns the last saved step; every second is.
    """
    flying: list[list[RolloutRequest]] = []
    step, last, is_open = saved, saved, False
    start = buffer.journal.path.read_text().count("\n") if buffer.journal.path.exists() else 0
    while step < LAST_STEP:
        if buffer.journal.path.exists() and buffer.journal.path.read_text().count("\n") - start >= lines:
            return last
        taken = buffer.taken(step)
        if taken is None and not is_open:
            is_open = True
            again = buffer.reopen(step)
            flying = [again[i : i + 2] for i in range(0, len(again), 2)]
        if taken is None:
            if buffer.may_draw(step, step) and moments.random() < 0.6:
                flying.append(buffer.draw(step))
            elif flying and moments.random() < 0.7:
                requests = flying.pop(moments.randrange(len(flying)))
                if int(requests[0].problem_id) not in buffer.journal.account.dropped:
                    finish(buffer, requests, step)
            taken = buffer.take(step)
        if taken is not None:
            step += 1
            trained[step] = [row.trajectory.problem_id for row in taken if row.trajectory.sample == 0]
            buffer.end_step()
            if step % 2 == 0:
                last = step
                buffer.forget(step)
    return last


def test_a_group_on_the_disk_is_the_group(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path)
    requests = buffer.draw(0)
    finish(buffer, requests, 0)
    finish(buffer, buffer.draw(0), 0)
    taken, again = buffer.take(0), open_buffer(tmp_path).taken(0)
    assert taken is not None and again is not None
    for row, read in zip(taken, again, strict=True):
        assert (read.outcome, read.reward, read.group) == (row.outcome, row.reward, row.group)
        for name in (
            "response_ids",
            "loss_mask",
            "logprobs",
            "calls",
            "versions",
            "text",
            "own_words",
            "shown",
            "finish",
        ):
            assert getattr(read.trajectory, name) == getattr(row.trajectory, name), name


def test_an_inconsistent_journal_line_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("drawn", draw=0, problem="p", begun=0)
    journal.write("whole", draw=0)
    journal.write("taken", step=1, draws=[0])
    with pytest.raises(AssertionError):
        journal.write("taken", step=2, draws=[0])  # trained twice
    with pytest.raises(AssertionError):
        journal.write("dropped", draw=0, reason="late")
    assert len(journal.path.read_text().splitlines()) == 3
    account = Account()
    with pytest.raises(AssertionError):
        account.enter(json.loads('{"event": "whole", "draw": 5}'))
