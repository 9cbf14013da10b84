"""The commands behind the Makefile, as far as they need no server."""

import pytest

from flows.local import read_parameters, record_name


@pytest.mark.parametrize(
    ("deployment", "parameters", "name"),
    [
        ("train/tiny", {}, "tiny"),
        ("train/tiny", {"run": "demo"}, "demo"),
        ("train/tiny", {"run": "demo", "overrides": {"seed": 1}}, "demo"),
        ("sft/local", {"run": "demo"}, "demo"),
        ("sft/local", {"run": "demo", "overrides": {"sft.max_steps": 5}}, "demo-changed"),
        ("evaluate/local", {"run": "demo", "problems": ["/aime.jsonl"]}, "demo-changed"),
        ("evaluate/local", {"run": "demo", "into": "aime", "overrides": {"seed": 1}}, "aime"),
    ],
)
def test_scores_shown_are_those_of_the_record_that_was_written(
    deployment: str, parameters: dict, name: str
) -> None:
    assert record_name(deployment, parameters) == name


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
