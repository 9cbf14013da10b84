"""Parameters of the wrong type: one line with the right type and an example, before anything starts."""

from typing import Any

import pytest
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

from flows.bootstrap import bootstrap
from flows.commands.parameters import check_parameters
from flows.pipeline import train
from flows.promote import promote
from flows.stages import evaluate, rl


@pytest.mark.parametrize(
    ("flow", "parameters", "hint"),
    [
        (evaluate, {"problems": "/a.jsonl"}, 'a list, like problems=\'["first", "second"]\''),
        (evaluate, {"checkpoint": "last"}, "one of base, sft, rl, like checkpoint=base"),
        (evaluate, {"inputs": ["checkpoint"]}, 'keys and values, like inputs=\'{"checkpoint": {"kind"'),
        (train, {"overrides": "rl.rounds=3"}, "keys and values, like overrides='{\"sft.max_steps\": 50}'"),
        (train, {"force": "yes"}, "true or false, like force='true'"),
        (train, {"run": 7}, "a text, like run='\"7\"'"),
        (bootstrap, {"rounds": "two"}, "a whole number from 1 on, like rounds=1"),
        (rl, {"number": 0}, "a whole number from 1 on, like number=1"),
        (train, {"runn": "x"}, "has recipe, run, overrides, force"),
    ],
)
def test_what_a_flow_does_not_take(flow: Flow[Any, Any], parameters: dict[str, Any], hint: str) -> None:
    schema = parameter_schema(flow).model_dump()
    with pytest.raises(ValueError) as caught:
        check_parameters("mine/one", schema, parameters)
    message = str(caught.value)
    assert message.startswith(f"parameter '{next(iter(parameters))}'") and hint in message
    assert "\n" not in message


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ValueError, match=r"^parameter 'run' is missing: tirflow run mine/one run=\.\.\.$"):
        check_parameters("mine/one", parameter_schema(promote).model_dump(), {"tag": "x"})


def test_what_it_takes() -> None:
    schema = parameter_schema(evaluate).model_dump()
    ref = {"kind": "checkpoint", "digest": "0" * 64, "location": "checkpoint/0000000000000000-00000000"}
    for parameters in (
        {},
        {"run": "a", "problems": ["/a.jsonl"], "overrides": {"seed": 1}, "force": True},
        {"problems": None, "inputs": {"checkpoint": ref}},
    ):
        check_parameters("evaluate/local", schema, parameters)
