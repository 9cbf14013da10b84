"""The commands behind the Makefile that need no server."""

import pytest

from flows.commands.local import read_parameters
from flows.stages import _problem_sections
from tasks.prepare.config import ProblemSource


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/aime_2024.jsonl", "aime_2024"),
        ("/data/AIME 2024.csv.gz", "AIME_2024"),
        ("/data/v1.5.JSON", "v1.5"),
        ("/data/shards/", "shards"),
        ("/data/задачи.jsonl", "problems"),
    ],
)
def test_a_problem_file_names_its_set(path: str, name: str) -> None:
    (source,) = _problem_sections([path])
    assert ProblemSource.model_validate(source).name == name


def test_parameters_are_read_as_a_shell_hands_them_over() -> None:
    given = [
        "run=mine",
        "force=true",
        "overrides.sft.max_steps=5",
        'overrides={"seed": 1}',
        "overrides.name=x",
    ]
    overrides = {"seed": 1, "sft.max_steps": 5, "name": "x"}
    assert read_parameters(given) == {"run": "mine", "force": True, "overrides": overrides}
    with pytest.raises(ValueError, match="write name=value"):
        read_parameters(["run"])
    with pytest.raises(ValueError, match=r"overrides\.<key>=value"):
        read_parameters(["overrides={seed:1}", "overrides.seed=2"])
