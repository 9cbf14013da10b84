"""The rollout loop with the real sandbox and a scripted generator: both dialects, errors, a session.

The real engine beside the real sandbox: test_rl_round.py.
"""

from collections.abc import Iterator

import pytest

from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Sampling
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_trace
from tasks.shared.traces.trajectory import Trajectory
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.generation.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ANSWER = "<answer>\n\\boxed{3}\n</answer>"


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter(
        SandboxSettings(limits=Limits(wall_s=1.0, cpu_s=1.0), workers=1, preload=("math",))
    ) as running:
        yield running


def retool(code: str) -> str:
    return f"Run.\n<code>\n```python\n{code}\n```\n</code>"


def torl(code: str) -> str:
    return f"Run.\n```python\n{code}\n```\n```output"


def sample(script: str, interpreter: Interpreter, dialect: str, stateful: bool = False) -> Trajectory:
    policy = RolloutPolicy(
        dialect=DIALECTS[dialect],
        max_calls=3,
        announce_remaining_calls=False,
        error_feedback="last_line" if dialect == "torl" else "full",
        stateful=stateful,
        sampling=Sampling(),
        max_response_tokens=900,
    )
    generator = ScriptedGenerator(TOKENIZER, {"p/0": script})
    request = RolloutRequest("p", 0, tuple(TOKENIZER.encode("Q?")), seed=0)
    [trajectory] = rollout([request], generator, interpreter, TOKENIZER, policy)
    return trajectory


def test_retool_output_error_and_timeout_come_back(interpreter: Interpreter) -> None:
    script = (
        retool("import math\nprint(math.comb(5, 2))")
        + retool("print(1)\nprint(undefined)")
        + retool("while True: pass")
    )
    trajectory = sample(script + ANSWER, interpreter, "retool")
    assert [call.status for call in trajectory.calls] == ["ok", "error", "timeout"]
    assert trajectory.calls[0].observation == "10"
    assert trajectory.calls[1].observation.startswith("1\nTraceback")
    assert "NameError" in trajectory.calls[1].observation
    assert "TimeoutError" in trajectory.text
    assert trajectory.text.endswith(ANSWER)


def test_torl_feeds_the_last_line_back(interpreter: Interpreter) -> None:
    trajectory = sample(torl("1 / 0") + "So \\boxed{3}", interpreter, "torl")
    assert trajectory.text == torl("1 / 0") + "\nZeroDivisionError: division by zero\n```\nSo \\boxed{3}"


def test_blocks_are_apart_unless_stateful(interpreter: Interpreter) -> None:
    script = retool("x = 41") + retool("print(x + 1)") + ANSWER
    assert sample(script, interpreter, "retool").calls[1].status == "error"
    assert sample(script, interpreter, "retool", stateful=True).calls[1].observation == "42"


def test_a_rollout_and_a_written_trace_have_the_same_ids(interpreter: Interpreter) -> None:
    """SFT encodes segment by segment, cut where a rollout appends: ids and mask are those of the rollout."""
    trajectory = sample(retool("print(3)") + ANSWER, interpreter, "retool")
    encoded = encode_trace(TOKENIZER, DIALECTS["retool"], "Q?", trajectory.text, instructed=False)
    assert encoded.response_ids == tuple(trajectory.response_ids)
    assert encoded.loss_mask == tuple(trajectory.loss_mask)
