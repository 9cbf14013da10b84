"""Write `recipe.toml` of a published checkpoint, with which it is asked and served as it was evaluated."""

import json
from collections.abc import Mapping
from typing import Any

from tasks.shared.config import EvaluateStage

HEAD = """# How this checkpoint was evaluated: tirflow ask and tirflow serve take it with --recipe.
# Asking reads no problems and creates no model: data and model.source are placeholders.
name = "published"
description = "As the published checkpoint was evaluated."
"""
DATA = {
    "train": [{"name": "none", "source": "tiny"}],
    "evaluation": [{"name": "none_held_out", "source": "tiny", "split": "held_out"}],
}


def recipe_toml(config: EvaluateStage) -> str:
    """Return the configuration of an evaluation as a recipe, without paths and addresses of this site."""
    model = config.model.model_dump(mode="json", include={"dtype", "attention"}) | {"source": "tiny"}
    sections = {
        "model": model,
        "data": DATA,
        "traces": config.traces.model_dump(mode="json"),
        "sandbox": config.sandbox.model_dump(mode="json", exclude={"address", "allow_unsafe"}),
        "generation": config.generation.model_dump(mode="json", exclude={"pool", "placement"}),
        "evaluate": config.evaluate.model_dump(mode="json", exclude={"endpoint"}) | {"checkpoints": ["base"]},
    }
    return HEAD + "".join(_section(name, values) for name, values in sections.items())


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"\n[{name}]", *lines, ""])


def _value(value: Any) -> str:
    """Write a TOML value. JSON strings are valid TOML strings."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)
