"""The papers' recipes against a table of the papers' values; every value names its origin."""

import re
import tomllib
from typing import Any

import pytest

from data.papers import load_papers
from tasks.recipes import RECIPES_DIR, load_recipe

PAPERS = load_papers().recipes
RECIPES = ("retool", "retool_7b", "text_rl", "torl_1_5b", "torl_7b")
VALUE = re.compile(r"^([a-z_]+) = ")
MARK = re.compile(r"# .*\[[PR-]\]|# the commit that data/models\.toml pins")
OURS = {"description", "seed", "extends"}


def value_at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[int(part) if isinstance(tree, list) else part]
    return tree


@pytest.mark.parametrize("recipe", sorted(PAPERS))
def test_a_recipe_has_the_papers_values(recipe: str) -> None:
    resolved = load_recipe(recipe).model_dump(mode="json")
    for mark, values in PAPERS[recipe].items():
        found = {key: value_at(resolved, key) for key in values}
        assert found == values, mark


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_value_names_its_origin(recipe: str) -> None:
    """A mark is beside it, the table's mark if the table has the value."""
    lines = (RECIPES_DIR / f"{recipe}.toml").read_text().splitlines()
    section, open_list = "", False
    for line in lines:
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif open_list:
            open_list = not line.startswith("]")
            assert not line.startswith("  ") or MARK.search(line), line
        elif (found := VALUE.match(line)) and found[1] not in OURS:
            open_list = line.endswith("[")
            assert open_list or MARK.search(line), f"{recipe}: {line}"
            for mark, values in PAPERS.get(recipe, {}).items():
                if section + found[1] in values:
                    assert f"[{mark}]" in line, f"{recipe}: {line}"


def test_the_steps_of_both_runs_of_retool() -> None:
    """400 with the tool, 1,080 in text; nothing else of the loss differs between the two."""
    tool, text = (load_recipe(name) for name in ("retool", "text_rl"))
    assert tool.rl.rounds * tool.rl.steps_per_round == 400
    assert text.rl.rounds * text.rl.steps_per_round == 1080
    left_out = {"rounds", "steps_per_round"}
    assert tool.rl.model_dump(exclude=left_out) == text.rl.model_dump(exclude=left_out)
    assert tool.generation.max_prompt_tokens + tool.generation.max_response_tokens == 16384


def test_the_table_names_recipes_and_marks_that_there_are() -> None:
    assert set(PAPERS) <= set(RECIPES)
    assert {mark for values in PAPERS.values() for mark in values} == {"P", "R"}
    for recipe in RECIPES:
        tomllib.loads((RECIPES_DIR / f"{recipe}.toml").read_text())
