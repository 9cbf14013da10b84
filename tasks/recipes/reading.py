"""Read a recipe with overrides, of one round, or from a run's record; every mistake is one line that says where."""

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from data.protocols import find_protocol
from tasks.recipes.recipe import Recipe, find_stage
from tasks.shared.config.recipe_files import find_recipe, first_mistake, read_recipe

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


def load_recipe(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name (`tiny`) or file (`my.toml`), with overrides (`{"rl.rounds": 2}`) applied.

    An override may be a section (`{"rl": {"rounds": 2}}`): it changes the keys that it names, as `extends` does.
    Raises ValueError, one line: the file, the key and the remedy.
    """
    path = find_recipe(name_or_path)
    return resolve(read_recipe(path), overrides or {}, str(path))


def resolve(tree: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> Recipe:
    """The recipe in `tree` with overrides applied; ValueError, one line, that names `where` and the key."""
    changed = copy.deepcopy(dict(tree))
    given = key_by_key(overrides)
    try:
        for key, value in given.items():
            _set(changed, key, value)
        _lay_protocol(changed, given)
        recipe = Recipe.model_validate(changed)
        for number in range(1, 1 if isinstance(recipe.rl.rounds, int) else recipe.rl.num_rounds + 1):
            round_recipe(recipe, number)
    except ValueError as error:
        mistake = first_mistake(error, Recipe) if isinstance(error, ValidationError) else str(error)
        raise ValueError(f"{where}: {' '.join(mistake.splitlines())}") from None
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
    needed = {section for stage in stages for section in find_stage(stage).config.model_fields}
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
    if not isinstance(section, dict) or not isinstance(name := section.get("protocol"), str) or not name:
        return
    for key, value in find_protocol(name).items():
        laid_over = "evaluate.protocol" in overrides and f"evaluate.{key}" not in overrides
        given = value if laid_over else section.get(key, value)
        if given != value:
            raise ValueError(
                f"evaluate.{key} = {given} disagrees with evaluate.protocol = '{name}', which has {value}: "
                "take one of the two out, or set evaluate.protocol = '' for numbers of your own"
            )
        section[key] = value
