"""A user's reward function: its numbers, and failures of its process in one line each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.launch.keys import key_parts, work_key
from tasks.recipes import load_recipe
from tasks.rl.config import RlConfig
from tasks.rl.reward_function import RewardFunction, source_of
from tasks.shared.contract.environment import named_keys
from tasks.shared.contract.stage import TrainingStopped
from tests.integration.teacher_server import TeacherServer, serve

SOURCE = """
import os, time

def lengths(responses, scale=1.0):
    print("to standard error")
    return [scale * len(one["response"]) for one in responses]

def hangs(responses):
    time.sleep(600)

def ends(responses):
    os._exit(3)

def raises(responses):
    raise KeyError("no\\nsuch")

def hoards(responses):
    return [len(bytearray(1 << 33))]

def too_few(responses):
    return []

def not_numbers(responses):
    return [float("nan")] * len(responses)

def secrets(responses):
    return [float(os.environ.get(name, "nan") == "sk-1") for name in ("JUDGE_KEY", "OTHER_KEY")]

value = 3
"""
TWO = [{"response": "ab"}, {"response": "abcd"}]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(SOURCE)
    return path


def reward(source: Path, function: str, **settings: Any) -> RewardFunction:
    return RewardFunction(RlConfig(reward=f"{source}:{function}", **settings))


def test_numbers_of_several_steps_from_one_process(source: Path) -> None:
    with reward(source, "lengths", reward_arguments={"scale": 0.5}) as function:
        assert function(TWO) == [1.0, 2.0]
        assert function(TWO[::-1]) == [2.0, 1.0]
        assert function([]) == []


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("hangs", {"reward_seconds": 0.5}, "took longer than 0.5 s"),
        ("ends", {}, "ended by itself"),
        ("raises", {}, "failed: KeyError"),
        ("hoards", {"reward_memory_mb": 1024}, "failed: MemoryError"),
        ("too_few", {}, "gave 0 numbers, not all of them finite, for 2 responses"),
        ("not_numbers", {}, "gave 2 numbers, not all of them finite"),
    ],
)
def test_a_failing_reward_process_stops_the_round_in_one_line(
    source: Path, name: str, settings: dict[str, Any], said: str
) -> None:
    with reward(source, name, **settings) as function, pytest.raises(TrainingStopped) as caught:
        function(TWO)
    message = str(caught.value)
    assert message.startswith(f"rl.reward = '{source}:{name}' {said}") and "\n" not in message


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("nothing", {}, "AttributeError"),
        ("value", {}, "TypeError: value is no function"),
        ("lengths", {"scales": 2}, "got an unexpected keyword argument 'scales'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_at_the_start(
    source: Path, name: str, arguments: dict[str, Any], said: str
) -> None:
    with (
        pytest.raises(ValueError, match=f"cannot be loaded: .*{said}"),
        reward(source, name, reward_arguments=arguments),
    ):
        pass
    with (
        pytest.raises(ValueError, match="cannot be loaded: ModuleNotFoundError"),
        RewardFunction(RlConfig(reward="no_such_module:reward")),
    ):
        pass


def test_one_secret_reaches_it(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-1")
    monkeypatch.setenv("OTHER_KEY", "sk-1")
    config = RlConfig(reward=f"{source}:secrets", reward_key_variable="JUDGE_KEY")
    assert named_keys(config) == ["JUDGE_KEY"], "the stage itself is given it"
    with RewardFunction(config) as function:
        assert function(TWO) == [1.0, 0.0]


def test_its_source_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    keys = set()
    for text in ("a = 1", "a = 2"):
        path.write_text(text)
        file = source_of(f"{path}:reward")
        assert file is not None
        keys.add(work_key(key_parts("rl", {}, {}, 0, "", (file,))))
    assert len(keys) == 2
    assert (
        source_of("tasks.shared.learning.llm_judge:judge")
        == Path("tasks/shared/learning/llm_judge.py").resolve()
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    for unknown in (
        "",
        "no_such_module:reward",
        "no.such.module:reward",
        "broken.rewards:reward",
        "time:sleep",
    ):
        assert source_of(unknown) is None, unknown


@pytest.mark.parametrize(
    "name", ["mine", "mine.reward", "mine:", "../mine.py:reward", "mine.py:reward", "a b:c"]
)
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"rl\.reward"):
        load_recipe("tiny", {"rl.reward": name})


@pytest.fixture(scope="module")
def server() -> Iterator[TeacherServer]:
    with serve() as running:
        yield running


def test_a_language_model_judges(server: TeacherServer) -> None:
    """It gets the model's own text, and only if the grader does not accept the answer."""
    arguments = {"base_url": server.base_url, "model": "judge"}
    config = RlConfig(reward="tasks.shared.learning.llm_judge:judge", reward_arguments=arguments)

    def response(case: str, correct: bool = False) -> dict[str, Any]:
        problem = f"Case {case}. What is 2 * 3 + 4?"
        return {
            "problem_id": case,
            "problem": problem,
            "answer": "10",
            "own_words": "Ten.",
            "correct": correct,
        }

    with RewardFunction(config) as function:
        cases = [
            response("verdict_right"),
            response("verdict_wrong"),
            response("verdict_wrong", correct=True),
        ]
        assert function(cases) == [1.0, -1.0, 1.0]
        assert len(server.asked) == 2 and "Ten." in json.dumps(server.asked[0].body)
        with pytest.raises(TrainingStopped, match="the judge gave no verdict on problem verdict_none"):
            function([response("verdict_none")])
