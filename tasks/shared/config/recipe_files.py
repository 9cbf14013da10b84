"""Reads recipe files: TOML to a tree of keys, and one line for the first mistake in a tree."""

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.shared.config.section import Section
from tasks.shared.contract.environment import home

RECIPES_DIR = Path(__file__).resolve().parents[3] / "flows" / "recipes"


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe, named (`tiny`) or given (`my.toml`). ValueError that lists the names if there is none."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES_DIR / f"{name_or_path}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in RECIPES_DIR.glob("*.toml"))
        raise ValueError(
            f"recipe '{name_or_path}': no file {path}; use one of {', '.join(known)} or a path to a .toml"
        )
    return path


def read_recipe(path: Path) -> dict[str, Any]:
    """The tree of a recipe's file over those that it extends, with a name and with `{home}` replaced in paths."""
    tree = _read(path)
    tree.setdefault("name", path.stem)
    _place_home(tree)
    return tree


def _place_home(tree: Any) -> None:
    """Replace a leading `{home}` of every path by this machine's home."""
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        _place_home(value)
    if isinstance(tree, dict) and str(tree.get("path", "")).startswith("{home}/"):
        tree["path"] = str(home() / tree["path"].removeprefix("{home}/"))


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's tree over that of the recipe in the same folder that its key `extends` names."""
    try:
        tree = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}; correct that line") from None
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    parent_path = path.parent / f"{parent}.toml"
    if not parent_path.is_file() or parent_path in (path, *above):
        raise ValueError(f"{path}: key 'extends': no other recipe {parent_path}; name one in the same folder")
    return _merge(_read(parent_path, (path, *above)), tree)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section; a list replaces a list."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def first_mistake(error: ValidationError, tree: type[Section]) -> str:
    """One line for the first mistake in a `tree`: the key, the mistake, the nearest known key."""
    mistake = error.errors()[0]
    key = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(tree, mistake["loc"][:-1])
        near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key '{key}'; {hint}"
    if mistake["type"] == "model_type":
        example = f"{key}.{_known_keys(tree, mistake['loc'])[0]}"
        return f"key '{key}' is a section, not a value ({mistake['input']!r}); set its keys, like {example}"
    message = mistake["msg"].removeprefix("Value error, ")
    if isinstance(mistake["input"], str | int | float):
        message += f" (it is {mistake['input']!r})"
    return f"key '{key}': {message}" if key else message


def _known_keys(tree: type[Section], section: tuple[int | str, ...]) -> list[str]:
    fields = tree.model_fields
    for part in section:
        if isinstance(part, int):
            continue
        annotation = fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
        fields = inner[0].model_fields
    return sorted(fields)
