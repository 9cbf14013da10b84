"""The rollout loop with a scripted generator and a scripted interpreter (fakes of the two protocols).

The same loop with the real sandbox: tests/integration/test_rollout_sandbox.py.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Sampling
from tasks.shared.grading import GradeReason, grade
from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.trajectory import NOTICE, FinishReason, Trajectory
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.generation.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BLOCK = "Compute.\n<code>\n```python\nprint(1 + 2)\n```\n</code>"
ANSWER = "<answer>\n\\boxed{3}\n</answer>"
TORL_BLOCK = "Compute.\n```python\nprint(1 + 2)\n```\n```output"


def result(status: Status, stdout: str = "", error: str = "") -> ExecutionResult:
    last = error.splitlines()[-1] if error else ""
    return ExecutionResult(
        status=status, stdout=stdout, error=error, error_line=last, seconds=0.25, peak_memory_mb=1.0
    )


class ScriptedInterpreter:
    """Passes every program to `answer`, in a thread after `delay_s`."""

    def __init__(self, answer: Callable[[str], ExecutionResult], delay_s: float = 0.0) -> None:
        self._answer, self._delay_s = answer, delay_s
        self.programs: list[str] = []
        self.sessions: list[str | None] = []
        self.open_sessions: set[str] = set()

    def submit(self, code: str, session: str | None = None, limits: object = None) -> Future[ExecutionResult]:
        self.programs.append(code)
        self.sessions.append(session)
        future: Future[ExecutionResult] = Future()
        if self._delay_s:
            threading.Timer(self._delay_s, lambda: future.set_result(self._answer(code))).start()
        else:
            future.set_result(self._answer(code))
        return future

    def open_session(self) -> str:
        name = f"session-{len(self.open_sessions)}"
        self.open_sessions.add(name)
        return name

    def close_session(self, name: str) -> None:
        self.open_sessions.remove(name)


def policy(dialect: str = "retool", **changes: object) -> RolloutPolicy:
    values = {
        "dialect": DIALECTS[dialect],
        "max_calls": 4,
        "announce_remaining_calls": False,
        "error_feedback": "full",
        "stateful": False,
        "sampling": Sampling(),
        "max_response_tokens": 500,
    }
    return RolloutPolicy(**{**values, **changes})  # type: ignore[arg-type]


def requests_for(scripts: dict[str, str]) -> list[RolloutRequest]:
    return [
        RolloutRequest(name.split("/")[0], int(name.split("/")[1]), tuple(TOKENIZER.encode("Q?")), seed=i)
        for i, name in enumerate(scripts)
    ]


def run(
    scripts: dict[str, str], interpreter: object, rules: RolloutPolicy
) -> tuple[list[Trajectory], ScriptedGenerator]:
    generator = ScriptedGenerator(TOKENIZER, scripts)
    return list(rollout(requests_for(scripts), generator, interpreter, TOKENIZER, rules)), generator  # type: ignore[arg-type]


def three(code: str) -> ExecutionResult:
    return result(Status.OK, "3\n")


def check_record(trajectory: Trajectory) -> None:
    """Log-probs exactly on sampled tokens; feedback spans never sampled, everything else sampled."""
    feedback = {i for call in trajectory.calls for i in range(call.turn_end, call.feedback_end)}
    for i, (sampled, logprob) in enumerate(zip(trajectory.loss_mask, trajectory.logprobs, strict=True)):
        assert sampled == (i not in feedback)
        assert logprob == (-0.5 if sampled else 0.0)


def test_retool_block_runs_and_its_output_is_masked_feedback() -> None:
    interpreter = ScriptedInterpreter(three)
    [trajectory], generator = run({"p/0": BLOCK + ANSWER}, interpreter, policy())
    assert interpreter.programs == ["print(1 + 2)"]
    assert trajectory.text == f"{BLOCK}\n<interpreter>\n3\n</interpreter>\n{ANSWER}"
    assert trajectory.finish is FinishReason.EOS
    [call] = trajectory.calls
    assert (call.status, call.observation, call.seconds) == ("ok", "3", 0.25)
    feedback = trajectory.response_ids[call.turn_end : call.feedback_end]
    assert TOKENIZER.decode(feedback) == "\n<interpreter>\n3\n</interpreter>\n"
    check_record(trajectory)
    whole = (*trajectory.prompt_ids, *trajectory.response_ids)
    for context in generator.contexts["p/0"]:  # prefix property
        assert whole[: len(context)] == context


def test_a_box_that_a_program_printed_is_not_the_models_answer() -> None:
    interpreter = ScriptedInterpreter(lambda code: result(Status.OK, "\\boxed{3}\n"))
    [trajectory], _ = run({"p/0": BLOCK + "I give up."}, interpreter, policy())
    assert "\\boxed{3}" in trajectory.text
    assert trajectory.own_words.split() == ["Compute.", "I", "give", "up."]
    assert not grade(trajectory.own_words, "3").correct


def test_the_last_box_of_a_response_counts() -> None:
    """The last box of the whole response counts, without feedback."""
    interpreter = ScriptedInterpreter(lambda code: result(Status.OK, "\\boxed{4}\n"))
    [trajectory], _ = run({"p/0": "So \\boxed{3}. " + BLOCK + "It agrees."}, interpreter, policy())
    assert grade(trajectory.own_words, "3").correct


def test_a_box_in_a_block_after_the_call_cap_is_no_answer() -> None:
    """The block is text after the cap, but still a program."""
    interpreter = ScriptedInterpreter(three)
    late = BLOCK.replace("1 + 2", "'\\\\boxed{3}'")
    [trajectory], _ = run({"p/0": BLOCK + late + "Done."}, interpreter, policy(max_calls=1))
    assert len(trajectory.calls) == 1 and "\\boxed{3}" in trajectory.text
    assert grade(trajectory.own_words, "3").reason is GradeReason.NO_BOX


def test_a_control_token_that_a_program_printed_ends_no_turn() -> None:
    interpreter = ScriptedInterpreter(lambda code: result(Status.OK, "3<|end|>\n<|user|>\n"))
    [trajectory], _ = run({"p/0": BLOCK + ANSWER}, interpreter, policy())
    assert "3<|end|>\n<|user|>" in trajectory.text
    [call] = trajectory.calls
    feedback = trajectory.response_ids[call.turn_end : call.feedback_end]
    assert not set(feedback) & set(TOKENIZER.all_special_ids)
    check_record(trajectory)


def test_torl_block_and_last_line_of_the_error() -> None:
    interpreter = ScriptedInterpreter(
        lambda code: result(Status.ERROR, "", "Traceback:\n  line\nNameError: x")
    )
    [trajectory], _ = run(
        {"p/0": TORL_BLOCK + "So \\boxed{3}"}, interpreter, policy("torl", error_feedback="last_line")
    )
    assert trajectory.text == f"{TORL_BLOCK}\nNameError: x\n```\nSo \\boxed{{3}}"
    assert trajectory.calls[0].status == "error"
    check_record(trajectory)


def test_past_the_call_cap_a_block_is_text() -> None:
    interpreter = ScriptedInterpreter(three)
    rules = policy(max_calls=2, announce_remaining_calls=True)
    [trajectory], generator = run({"p/0": BLOCK * 3 + ANSWER}, interpreter, rules)
    assert len(interpreter.programs) == len(trajectory.calls) == 2
    assert "remaining calls: 1" in trajectory.text
    assert "remaining calls: 0" in trajectory.text
    assert generator.stops["p/0"] == ["</code>", "</code>", None]
    assert trajectory.text.endswith(BLOCK + ANSWER)
    assert trajectory.finish is FinishReason.EOS


def test_an_interpreter_is_needed_for_calls_alone() -> None:
    [trajectory], generator = run({"p/0": BLOCK + ANSWER}, None, policy(max_calls=0))
    assert trajectory.calls == ()
    assert generator.stops["p/0"] == [None]
    with pytest.raises(ValueError, match="start an Interpreter"):
        run({"p/0": BLOCK}, None, policy())


def test_the_budget_counts_the_whole_response() -> None:
    interpreter = ScriptedInterpreter(three)
    [whole], _ = run({"p/0": BLOCK + ANSWER}, interpreter, policy())
    call = whole.calls[0]
    for budget in range(1, len(whole.response_ids) + 3):
        [trajectory], _ = run({"p/0": BLOCK + ANSWER}, interpreter, policy(max_response_tokens=budget))
        assert len(trajectory.response_ids) <= budget
        assert trajectory.response_ids == whole.response_ids[: len(trajectory.response_ids)]
        fits = budget >= len(whole.response_ids)
        assert trajectory.finish is (FinishReason.EOS if fits else FinishReason.LENGTH)
        if (
            call.turn_end <= budget <= call.feedback_end
        ):  # feedback that does not fit, with a token after it, is left out
            assert len(trajectory.response_ids) == call.turn_end
            assert [c.status for c in trajectory.calls] == ["ok"]
            assert trajectory.calls[0].feedback_end == call.turn_end
        check_record(trajectory)


def test_a_stop_string_without_a_block_is_text() -> None:
    interpreter = ScriptedInterpreter(three)
    [trajectory], _ = run({"p/0": "I write </code> here. " + BLOCK + ANSWER}, interpreter, policy())
    assert interpreter.programs == ["print(1 + 2)"]
    assert trajectory.text.startswith("I write </code> here. Compute.")
    assert len(trajectory.calls) == 1
    check_record(trajectory)


BROKEN = "Compute.\n<code>\n```python\nprint(1 + 2)\n</code>"


def test_a_block_that_is_not_whole_is_answered_by_a_notice() -> None:
    interpreter = ScriptedInterpreter(three)
    rules = policy(max_calls=2, announce_remaining_calls=True)
    [trajectory], generator = run({"p/0": BROKEN + BLOCK + ANSWER}, interpreter, rules)
    assert interpreter.programs == ["print(1 + 2)"]
    notice, call = trajectory.calls
    assert (notice.status, notice.executed, notice.code) == (NOTICE, False, "")
    assert call.status == "ok"
    assert "its fence is not closed" in notice.observation
    assert f"\n<interpreter>\n{notice.observation}\nremaining calls: 1\n</interpreter>\n" in trajectory.text
    assert generator.stops["p/0"] == ["</code>", "</code>", None]
    assert (trajectory.unrecognised, trajectory.self_written) == (1, 0)
    assert [segment.is_feedback for segment in rules.dialect.split(trajectory.text)] == [False, True] * 2 + [
        False
    ]
    check_record(trajectory)


def test_without_notices_it_is_text() -> None:
    interpreter = ScriptedInterpreter(three)
    [trajectory], _ = run({"p/0": BROKEN + ANSWER}, interpreter, policy(block_notices=False))
    assert trajectory.calls == ()
    assert trajectory.unrecognised == 1
    assert trajectory.text == BROKEN + ANSWER


def test_invented_output_is_counted_and_trained_on() -> None:
    interpreter = ScriptedInterpreter(three)
    fabricated = "So\n<interpreter>\n4\n</interpreter>\n"
    [trajectory], _ = run({"p/0": fabricated + BLOCK + fabricated + ANSWER}, interpreter, policy())
    assert (len(trajectory.calls), trajectory.self_written, trajectory.unrecognised) == (1, 2, 0)
    assert [trajectory.text[start:end] for start, end in trajectory.shown] == [
        "\n<interpreter>\n3\n</interpreter>\n"
    ]
    check_record(trajectory)


@pytest.mark.parametrize("dialect", ["retool", "torl"])
def test_a_stop_string_inside_the_program_does_not_end_it(dialect: str) -> None:
    stop = DIALECTS[dialect].stop
    program = f'print(\'{stop}\'[:0] + \'3\')  # {stop}\nx = """\n```\n{stop}\n"""'
    interpreter = ScriptedInterpreter(three)
    [trajectory], _ = run(
        {"p/0": DIALECTS[dialect].write_call(program) + ANSWER}, interpreter, policy(dialect)
    )
    assert interpreter.programs == [program]
    assert (len(trajectory.calls), trajectory.unrecognised, trajectory.self_written) == (1, 0, 0)
    check_record(trajectory)


def test_a_sandbox_failure_ends_the_trajectory_and_is_not_shown() -> None:
    interpreter = ScriptedInterpreter(lambda code: result(Status.SANDBOX_FAILURE, "", "SandboxFailure: gone"))
    [trajectory], _ = run({"p/0": BLOCK + ANSWER}, interpreter, policy())
    assert trajectory.finish is FinishReason.SANDBOX_FAILURE
    assert trajectory.text == BLOCK
    assert trajectory.calls[0].status == "sandbox_failure"
    check_record(trajectory)


def test_other_rows_go_on_while_code_runs() -> None:
    interpreter = ScriptedInterpreter(three, delay_s=0.3)
    scripts = {"slow/0": BLOCK + ANSWER, **{f"text/{i}": "no code " * 10 for i in range(4)}}
    trajectories, _ = run(scripts, interpreter, policy())
    assert [t.problem_id for t in trajectories] == ["text"] * 4 + ["slow"]


def test_scheduled_delivery_does_not_depend_on_how_long_code_takes() -> None:
    scripts = {"a/0": BLOCK + ANSWER, "b/0": BLOCK * 2 + ANSWER, "c/0": "some words " * 20}
    seen = []
    for delay_s in (0.0, 0.05):
        rules = policy(schedule_steps=5)
        trajectories, generator = run(scripts, ScriptedInterpreter(three, delay_s), rules)
        seen.append(
            ([(t.problem_id, t.response_ids) for t in trajectories], generator.steps_at, generator.num_steps)
        )
    assert seen[0] == seen[1]
    assert seen[0][1]["a/0"]


def test_a_session_lives_as_long_as_its_trajectory() -> None:
    interpreter = ScriptedInterpreter(three)
    [trajectory], _ = run({"p/0": BLOCK * 2 + ANSWER}, interpreter, policy(stateful=True))
    assert interpreter.sessions == ["session-0", "session-0"]
    assert not interpreter.open_sessions
    assert len(trajectory.calls) == 2
