"""Decontamination by n-grams of normalised words."""

from tasks.prepare.decontaminate import decontaminate
from tasks.prepare.rows import ProblemRow
from tasks.shared.rows.ngrams import ngrams, words


def row(row_id: str, problem: str) -> ProblemRow:
    return ProblemRow(row_id, problem, "1", row_id.split("/")[0])


def test_words_are_lower_case_runs_of_letters_or_digits():
    assert words(r"Find $3x^{45}$ mod  7, ÉTÉ_2!") == ["find", "3", "x", "45", "mod", "7", "été", "2"]


def test_ngrams_slide_and_a_short_text_is_one_ngram():
    assert ngrams("a b c d", 3) == ["a b c", "b c d"]
    assert ngrams("a b", 3) == ["a b"]
    assert ngrams("a b c", 3) == ["a b c"]
    assert ngrams("...", 3) == []


def test_a_shared_ngram_removes_a_problem():
    evaluation = [row("eval/1", "Every morning Aya goes for a walk of nine kilometres and stops.")]
    train = [
        row("train/same", "In spring, every MORNING $Aya$ goes for a: walk; of ten miles."),
        row("train/seven", "every morning Aya goes for a run of nine kilometres"),
        row("train/other", "Count the lattice points inside a circle of radius nine around the origin."),
    ]
    kept, removed = decontaminate(train, evaluation, 8)
    assert [r.id for r in kept] == ["train/seven", "train/other"]
    assert [(o.row.id, o.evaluation_id, o.evaluation_source) for o in removed] == [
        ("train/same", "eval/1", "eval")
    ]
    assert removed[0].ngram == "every morning aya goes for a walk of"


def test_numbers_keep_problems_of_one_wording_apart():
    evaluation = [row("eval/1", "Find the remainder when 23^145 is divided by 617.")]
    train = [
        row("train/apart", "Find the remainder when 29^145 is divided by 617."),
        row("train/equal", "find the remainder when 23 ^ 145 is divided by 617"),
    ]
    kept, removed = decontaminate(train, evaluation, 8)
    # the window from 145 on is seven words, one too few
    assert [r.id for r in kept] == ["train/apart"]
    assert [o.row.id for o in removed] == ["train/equal"]


def test_equal_short_problems_are_found():
    kept, removed = decontaminate([row("train/1", "What is 7!?")], [row("eval/1", "what is 7")], 8)
    assert not kept
    assert len(removed) == 1
