"""Check the parameters of a deployment run against the flow's signature, before anything starts."""

import json
from collections.abc import Mapping
from typing import Any

from prefect.utilities.schema_tools.validation import validate

KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "keys and values",
    "string": "a text",
}
EXAMPLES: dict[str, Any] = {"array": ["first", "second"], "boolean": True, "integer": 3, "number": 0.5}
OBJECTS: dict[str, Any] = {
    "overrides": {"sft.max_steps": 50},
    "inputs": {"checkpoint": {"kind": "checkpoint", "digest": "...", "location": "checkpoint/..."}},
}


def check_parameters(deployment: str, schema: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raise ValueError, with an example, for an unknown or missing parameter, or one of the wrong type."""
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in parameters:
            raise ValueError(f"parameter '{name}' is missing: tirflow run {deployment} {name}=...")
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(f"parameter '{name}': {deployment} has {', '.join(known)}")
        if validate({name: value}, dict(schema), ignore_required=True, allow_none_with_default=True):
            kind, example = _kind_and_example(name, known[name], value)
            raise ValueError(
                f"parameter '{name}' = {json.dumps(value)}: {deployment} takes {kind}, like {name}={example}"
            )


def _kind_and_example(name: str, schema: Mapping[str, Any], value: Any) -> tuple[str, str]:
    """Describe what a parameter takes, with an example as it is written in a shell."""
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}", str(schema["enum"][0])
    choices = [schema, *schema.get("anyOf", ())]
    kind = next(choice["type"] for choice in choices if choice.get("type", "null") != "null")
    if kind == "string":  # without quotes, a name of digits would be read as a number
        return KINDS[kind], f"'{json.dumps(str(value))}'"
    if "minimum" in schema:
        return f"{KINDS[kind]} from {schema['minimum']} on", str(schema["minimum"])
    example = OBJECTS.get(name, {}) if kind == "object" else EXAMPLES[kind]
    return KINDS[kind], f"'{json.dumps(example)}'"
