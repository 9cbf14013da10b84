"""The terminal: code, output and answer; a conversation; a vote; a dropped sample."""

import io

from rich.console import Console

from tasks.serve.ask import Asker, vote_table
from tasks.serve.config import ServeConfig
from tasks.serve.conversation import Message
from tasks.serve.parts import Grown
from tasks.serve.request import ServeRequest
from tasks.serve.resident import Resident
from tasks.shared.generation.interleave import RolloutRequest
from tests.unit.serve.scripted_world import ANSWER, CALL, scripted, small_stage
from tests.waiting import until


def asker(resident: Resident, samples: int = 1) -> tuple[Asker, io.StringIO]:
    shown = io.StringIO()
    request = ServeRequest(
        name="m",
        checkpoint="/c",
        config=small_stage(),
        serve=ServeConfig(),
        scratch="/s",
        samples=samples,
        seed=5,
    )
    return Asker(resident, Console(file=shown, width=80), request), shown


def test_a_conversation_shows_code_output_and_answer() -> None:
    with scripted([CALL + ANSWER]) as resident:
        asking, shown = asker(resident)
        asking.answer("What is 6 times 7?")
        lines = shown.getvalue().splitlines()
        assert lines[0] == "seed 5" and lines[-1] == "answer: 42"
        at = lines.index("print(6 * 7)")
        assert [line.strip() for line in lines[at - 2 : at + 4]] == [
            "<code>",
            "```python",
            "print(6 * 7)",
            "```",
            "</code>",
            "│ 42",
        ]
        asking.answer("And again?")
        assert [message.role for message in asking._history] == ["user", "assistant"] * 2
        ids = resident.prompts.of([*asking._history, Message("user", "Once more?")])
        assert resident.decode(ids).count("<interpreter>") == 2 and "seed 6" in shown.getvalue()


def test_a_vote_counts_equal_values_once() -> None:
    with scripted(
        [CALL + ANSWER, ANSWER.replace("42", "42.0"), "nothing", ANSWER.replace("42", "7")]
    ) as resident:
        asking, shown = asker(resident, samples=4)
        asking.answer("What is 6 times 7?")
    lines = [line.split() for line in shown.getvalue().splitlines()[-3:]]
    assert [(line[0], line[-3:]) for line in lines] == [
        ("42", ["2", "of", "4"]),
        ("7", ["1", "of", "4"]),
        ("no", ["1", "of", "4"]),
    ]
    assert vote_table([], 2).row_count == 1


def test_a_dropped_sample_ends_alone() -> None:
    """A sample whose program never ends is dropped; the other one is answered."""
    endless = CALL.replace("print(6 * 7)", "while True: pass")
    with scripted([endless, CALL + ANSWER]) as resident:
        events: list[Grown | Exception] = []
        ids = resident.prompts.of([Message("user", "Q?")])
        resident.ask(RolloutRequest("a", 0, ids, 1), events.append, True)
        until(lambda: any(isinstance(grown, Grown) and grown.running for grown in events))
        resident.drop("a/0")
        resident.ask(RolloutRequest("b", 1, ids, 1), events.append, False)
        until(lambda: any(isinstance(grown, Grown) and grown.trajectory for grown in events))
        assert events[-1].trajectory.text.endswith(ANSWER)  # type: ignore[union-attr]
