"""The differences between two trees of settings, a line each: `rl.optimizer.learning_rate: 0.0003 -> 0.001`."""

from collections.abc import Mapping
from typing import Any

MOST_CHARS = 60  # of a value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """A line for every key whose value differs, sorted by key."""
    old, new = _flat(before), _flat(after)
    return [
        f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            value = {str(place): item for place, item in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= MOST_CHARS else text[: MOST_CHARS - 3] + "..."
