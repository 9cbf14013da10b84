"""The registry of public problem sets: every entry pinned to a commit, with licence and columns."""

import re

import pytest

from data.registry import find_problem_set, load_registry


def test_every_entry_is_pinned_and_has_a_licence():
    registry = load_registry()
    evaluation = {"aime_2024": 30, "aime_2025": 30, "aime_2026": 30, "math_500": 500, "amc_2023": 40}
    evaluation |= {"olympiad_bench": 674, "hmmt_feb_2025": 30, "hmmt_nov_2025": 30, "hmmt_feb_2026": 33}
    assert {name: registry[name].rows for name in evaluation} == evaluation and "dapo_math_17k" in registry
    for name, entry in registry.items():
        assert re.fullmatch(r"[0-9a-f]{40}", entry.revision), name
        assert "/" in entry.id
        assert entry.licence
        assert entry.answer in ("integer", "expression")


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(
        ValueError, match=r"no problem set 'aime_1999'; use one of aime_2024, aime_2025, aime_2026, amc_2023"
    ):
        find_problem_set("aime_1999")
