"""The families: solvers and programs agree, answers cannot be guessed, the splits are disjoint."""

import contextlib
import io
import random
from collections import Counter

import pytest

from data.families import (
    ALL_FAMILIES,
    HELD_OUT_FAMILIES,
    HELD_OUT_WORD_FAMILIES,
    TRAIN_FAMILIES,
    WORD_FAMILIES,
    Family,
)
from data.problems import Split, generate
from tasks.shared.rows.ngrams import ngrams

NUM_SAMPLES = 300
WORDS = WORD_FAMILIES + HELD_OUT_WORD_FAMILIES
BOTH_WORLDS = ALL_FAMILIES + WORDS


def samples(family: Family, count: int = NUM_SAMPLES) -> list[dict[str, int]]:
    rng = random.Random(f"test:{family.name}")
    return [family.sample(rng) for _ in range(count)]


def printed(program: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "<program>", "exec"), {})
    return out.getvalue()


def by_name(families: tuple[Family, ...]) -> object:
    return pytest.mark.parametrize("family", families, ids=lambda family: family.name)


def test_there_are_enough_families_and_each_is_varied():
    assert len(TRAIN_FAMILIES) >= 16
    assert len(HELD_OUT_FAMILIES) == 2
    names = [family.name for family in BOTH_WORLDS]
    assert len(set(names)) == len(names)
    for family in BOTH_WORLDS:
        assert len(set(family.phrasings)) >= 5
        assert len(set(family.programs)) >= 2
        assert len(family.near_misses) >= 2


@by_name(BOTH_WORLDS)
def test_every_program_prints_the_reference_answer(family):
    for params in samples(family, 12):
        for program in family.programs:
            assert printed(program.format(**params)) == f"{family.solve(params)}\n", (program, params)


@by_name(BOTH_WORLDS)
def test_near_misses_run_and_are_mostly_wrong(family):
    outcomes = [
        printed(program.format(**params)) == f"{family.solve(params)}\n"
        for params in samples(family, 12)
        for program in family.near_misses
    ]
    assert sum(outcomes) / len(outcomes) < 0.5


@by_name(BOTH_WORLDS)
def test_answers_lie_in_range_and_none_is_frequent(family):
    answers = Counter(family.solve(params) for params in samples(family))
    assert min(answers) >= 0
    assert max(answers) <= family.max_answer
    assert max(answers.values()) <= 0.08 * NUM_SAMPLES, answers.most_common(3)


@by_name(BOTH_WORLDS)
def test_parameters_are_read_off_every_wording(family):
    for params in samples(family, 5):
        for phrasing in family.phrasings:
            assert family.read_params(phrasing.format(**params)) == params
    assert family.read_params("How many roads must a man walk down?") is None


@by_name(WORDS)
def test_reasoning_in_text_ends_in_the_reference_answer(family):
    for params in samples(family, 5):
        for reasoning in family.reasonings:
            assert reasoning.format(**family.work(params)).endswith(f"{family.solve(params)}.")


@by_name(BOTH_WORLDS)
def test_problems_are_short(family):
    params = samples(family, 1)[0]
    assert len(params) <= 4
    for phrasing in family.phrasings:
        assert len(phrasing.format(**params).split()) <= 25


@by_name(BOTH_WORLDS)
def test_no_eight_words_recur_for_many_parameters(family):
    """Otherwise decontamination would remove whole wordings of the training set for one held-out problem."""
    drawn = samples(family, 60)
    for phrasing in family.phrasings:
        windows = [ngrams(phrasing.format(**params), 8) for params in drawn]
        for place in range(min(len(grams) for grams in windows)):
            most = Counter(grams[place] for grams in windows).most_common(1)[0]
            assert most[1] <= 12, most


def test_the_same_seed_gives_the_same_problems_and_another_seed_others():
    first, again = (generate(Split.TRAIN, 60, seed=5) for _ in range(2))
    assert first == again
    assert {p.id for p in first} != {p.id for p in generate(Split.TRAIN, 60, seed=6)}


def test_train_and_held_out_parameters_are_disjoint_whatever_the_seeds():
    train = generate(Split.TRAIN, 3000, seed=1)
    held_out = generate(Split.HELD_OUT, 600, seed=2)
    assert not {p.id for p in train} & {p.id for p in held_out}
    families = {family.name: family for family in TRAIN_FAMILIES}
    assert all(not families[p.family].is_held_out(p.params) for p in train)
    assert all(families[p.family].is_held_out(p.params) for p in held_out)
    assert len({p.id for p in train}) == len(train)


def test_held_out_families_never_show_up_in_training():
    held_out = {p.family for p in generate(Split.HELD_OUT_FAMILY, 50, seed=0)}
    assert held_out == {family.name for family in HELD_OUT_FAMILIES}
    assert not held_out & {p.family for p in generate(Split.TRAIN, 400, seed=0)}


def test_families_have_equal_shares():
    shares = Counter(p.family for p in generate(Split.TRAIN, 10 * len(TRAIN_FAMILIES), seed=0))
    assert set(shares.values()) == {10}


def test_more_problems_than_exist_are_refused():
    small = Family("two", (("a", 1, 2),), ("{a}?",), ("print({a})",), ("print(0)",), lambda p: p["a"])
    with pytest.raises(ValueError, match="family two: no unused parameters left"):
        generate(Split.TRAIN, 3, seed=0, families=[small])
