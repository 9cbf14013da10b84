"""Problems of the tiny world and the rules of a recipe, for the tests of this folder."""

import pytest

from data.problems import Split, generate
from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.traces import TrainingProblem
from tasks.synthesize.verify import Rules


@pytest.fixture(scope="session")
def problems() -> list[TrainingProblem]:
    return [
        TrainingProblem(f"tiny/{p.id}", p.problem, str(p.answer), "tiny", p.family)
        for p in generate(Split.TRAIN, 600, seed=0)
    ]


@pytest.fixture
def retool() -> Rules:
    return Rules(DIALECTS["retool"], 4, "last_line", announce_remaining_calls=False, stateful=False)
