"""The parameters that flows of single stages share, written once; Prefect shows them in the form of each flow."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from prefect import Flow, flow
from pydantic import Field

from tasks.shared.artifacts import ArtifactRef

Refs = dict[str, ArtifactRef]
Count = Annotated[int, Field(ge=1)]
DESCRIPTIONS = {
    "run": "the run whose recipe and inputs are taken.",
    "recipe": "start a new run with this recipe instead.",
    "overrides": 'keys of the recipe and their values, such as {"sft.max_steps": 50}.',
    "inputs": "references in place of single inputs.",
    "into": "name under which the outcome is recorded; `<run>-changed` if overrides change something.",
    "force": "run again although the same work has been done.",
}


@dataclass(frozen=True, slots=True)
class Form:
    """What a flow of single stages was asked for, described by DESCRIPTIONS."""

    run: str = ""
    recipe: str = ""
    overrides: dict[str, Any] | None = None
    inputs: Refs | None = None
    into: str = ""
    force: bool = False


def flow_of_stages(flow_run_name: str, without: str = "") -> Callable[[Callable[..., Refs]], Flow[..., Refs]]:
    """Make a flow of `function(form, ...)`. Its parameters: Form's without those in `without`, and its own.

    Prefect reads types and defaults from a signature, and descriptions from the docstring.
    """

    def decorate(function: Callable[..., Refs]) -> Flow[..., Refs]:
        _, *own = inspect.signature(function).parameters.values()
        form = inspect.signature(Form).parameters.values()
        run, *shared = (parameter for parameter in form if parameter.name not in without.split())

        @functools.wraps(function)
        def body(**given: Any) -> Refs:
            names = given.keys() & DESCRIPTIONS.keys()
            return function(Form(**{name: given.pop(name) for name in names}), **given)

        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (run, *own, *shared)
        ]
        body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        text = inspect.cleandoc(function.__doc__ or "")
        text += "" if "\nArgs:" in text else "\n\nArgs:"
        described = [
            f"    {p.name}: {DESCRIPTIONS[p.name]}" for p in (run, *shared) if f"    {p.name}:" not in text
        ]
        body.__doc__ = "\n".join([text, *described])
        return flow(name=function.__name__, flow_run_name=flow_run_name)(body)

    return decorate
