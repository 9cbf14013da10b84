"""Read a recipe: TOML file to `Recipe`, with overrides; every mistake is one line that says where and what to do."""

import copy
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.protocols import find_protocol
from tasks.shared.config import STAGE_CONFIGS, Recipe
from tasks.shared.contract.environment import home

OF_A_ROUND = ("generation.", "traces.", "sandbox.", "rl.")
# what optimizers, schedules and the reference of the whole run are made for
OF_ALL_ROUNDS = (
    "rl.rounds",
    "rl.steps_per_round",
    "rl.mini_batches",
    "rl.algorithm",
    "rl.optimizer",
    "rl.critic",
    "rl.kl_coefficient",
)
EXAMPLE = '{"sft.max_steps": 50}'
RECIPES_DIR = Path(__file__).resolve().parents[3] / "flows" / "recipes"


def load_recipe(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name (`tiny`) or file (`my.toml`), with overrides (`{"rl.rounds": 2}`) applied.

    An override may be a section (`{"rl": {"rounds": 2}}`): it changes the keys that it names, as `extends` does.
    Raises ValueError, one line: the file, the key and the remedy.
    """
    path = _find(name_or_path)
    tree = _read(path)
    tree.setdefault("name", path.stem)
    _place_home(tree)
    return resolve(tree, overrides or {}, str(path))


def _place_home(tree: Any) -> None:
    """Replace a leading `{home}` of every path by this machine's home."""
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        _place_home(value)
    if isinstance(tree, dict) and str(tree.get("path", "")).startswith("{home}/"):
        tree["path"] = str(home() / tree["path"].removeprefix("{home}/"))


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES_DIR / f"{name_or_path}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in RECIPES_DIR.glob("*.toml"))
        raise ValueError(
            f"recipe '{name_or_path}': no file {path}; use one of {', '.join(known)} or a path to a .toml"
        )
    return path


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's tree, laid over that of the recipe beside it that its key `extends` names."""
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


def resolve(tree: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> Recipe:
    """The recipe in `tree` with overrides applied; ValueError, one line, that names `where` and the key."""
    changed = copy.deepcopy(dict(tree))
    given = key_by_key(overrides)
    try:
        for key, value in given.items():
            _set(changed, key, value)
        _lay_protocol(changed, given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    try:
        recipe = Recipe.model_validate(changed)
        for number in range(1, 1 if isinstance(recipe.rl.rounds, int) else recipe.rl.num_rounds + 1):
            round_recipe(recipe, number)
    except ValidationError as error:
        raise ValueError(f"{where}: {_first_mistake(error)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return recipe


def round_recipe(recipe: Recipe, number: int) -> Recipe:
    """The recipe of RL round `number`, from 1: what its entry in `rl.rounds` names is changed.

    In place of the list stands the number of rounds, so that a round does not depend on what others change.
    """
    if isinstance(recipe.rl.rounds, int):
        return recipe
    if not 1 <= number <= recipe.rl.num_rounds:
        raise ValueError(f"rl.rounds has {recipe.rl.num_rounds} entries, and round {number} is none of them")
    where, changes = f"rl.rounds, round {number}", key_by_key(recipe.rl.rounds[number - 1])
    for key in changes:
        if not key.startswith(OF_A_ROUND) or key.startswith(OF_ALL_ROUNDS):
            raise ValueError(
                f"{where}: key '{key}' holds for the whole run; a round changes {', '.join(OF_A_ROUND)} "
                f"but none of {', '.join(OF_ALL_ROUNDS)}"
            )
    tree = recipe.model_dump(mode="json")
    tree["rl"]["rounds"] = recipe.rl.num_rounds
    return resolve(tree, changes, where)


def key_by_key(overrides: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Overrides by dotted key, sections among them taken apart: `{"sft": {"max_steps": 3}}` is of `sft.max_steps`.

    ValueError unless they are a mapping.
    """
    if not isinstance(overrides, Mapping):
        raise ValueError(f"overrides = {overrides!r}: write keys and values, like {EXAMPLE}")
    keys: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            keys |= key_by_key(value, f"{section}{key}.")
        else:
            keys[f"{section}{key}"] = value
    return keys


def resolve_recorded(tree: Mapping[str, Any], overrides: Mapping[str, Any], run: str, *stages: str) -> Recipe:
    """The recipe that a run's record holds, maybe from before keys were taken out, for the work of some stages.

    Keys that are no more are left out where no such stage depends on them. ValueError, one line, where one does.
    """
    kept = copy.deepcopy(dict(tree))
    needed = {section for stage in stages for section in STAGE_CONFIGS[stage].model_fields}
    for *parents, leaf in _unknown_keys(kept):
        if (parents or [leaf])[0] in needed:
            key = ".".join(str(part) for part in (*parents, leaf))
            raise ValueError(
                f"recipe of run '{run}': key '{key}' is no more in this version, and {', '.join(stages)} would read "
                "its section; give recipe=NAME, one of today, besides the run (its inputs are taken all the same)"
            )
        section: Any = kept
        for part in parents:
            section = section[part]
        del section[leaf]
    return resolve(kept, overrides, f"recipe of run '{run}'")


def _unknown_keys(tree: Mapping[str, Any]) -> list[tuple[int | str, ...]]:
    """The places of the keys in `tree` that no recipe has."""
    try:
        Recipe.model_validate(tree)
    except ValidationError as error:
        return [mistake["loc"] for mistake in error.errors() if mistake["type"] == "extra_forbidden"]
    return []


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for parent in parents:
        if tree.get(parent) is None:  # a section that is off, as `lora` in a recorded recipe
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise ValueError(f"override '{dotted}': '{parent}' is a value, not a section; use section.key")
    tree[leaf] = value


def _lay_protocol(tree: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Fill [evaluate] with the values of the protocol it names; ValueError if a key that was given says otherwise.

    A protocol that is an override wins over what the recipe below it says, not over another override.
    """
    section = tree.get("evaluate")
    if not isinstance(section, dict) or not section.get("protocol"):
        return
    name = section["protocol"]
    for key, value in find_protocol(name).items():
        laid_over = "evaluate.protocol" in overrides and f"evaluate.{key}" not in overrides
        given = value if laid_over else section.get(key, value)
        if given != value:
            raise ValueError(
                f"evaluate.{key} = {given} disagrees with evaluate.protocol = '{name}', which has {value}: "
                "take one of the two out, or set evaluate.protocol = '' for numbers of your own"
            )
        section[key] = value


def _first_mistake(error: ValidationError) -> str:
    """One line for the first mistake: key, what is wrong, the nearest known key."""
    mistake = error.errors()[0]
    key = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(mistake["loc"][:-1])
        near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key '{key}'; {hint}"
    if mistake["type"] == "model_type":
        example = f"{key}.{_known_keys(mistake['loc'])[0]}"
        return f"key '{key}' is a section, not a value ({mistake['input']!r}); set its keys, like {example}"
    message = mistake["msg"].removeprefix("Value error, ")
    if isinstance(mistake["input"], str | int | float):
        message += f" (it is {mistake['input']!r})"
    return f"key '{key}': {message}" if key else message


def _known_keys(section: tuple[int | str, ...]) -> list[str]:
    fields = Recipe.model_fields
    for part in section:
        if isinstance(part, int):
            continue
        annotation = fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
        fields = inner[0].model_fields
    return sorted(fields)
