"""Rows of problem sets: each mistake is one line that names file or set, row, key and remedy."""

import json
from pathlib import Path

import pandas
import pytest

from tasks.prepare.config import ProblemSource
from tasks.prepare.problem_sets import read_problem_set
from tasks.prepare.rows import Columns, check_rows

GOOD = {"id": "a", "problem": "What is 1 + 1?", "answer": "2"}


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(path: Path, **settings: object) -> ProblemSource:
    return ProblemSource(name="own", source="file", path=str(path), **settings)


def test_rows_are_read_with_ids_of_their_set(tmp_path):
    path = jsonl(tmp_path / "own.jsonl", GOOD, {"problem": "What is 2 + 3?", "answer": 5})
    problem_set = read_problem_set(source(path), seed=0)
    assert [(row.id, row.answer, row.source, row.family) for row in problem_set.rows] == [
        ("own/a", "2", "own", ""),
        ("own/1", "5", "own", ""),
    ]
    assert problem_set.answer_kind == "integer"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": "b", "answer": "2"},
            r"row 2: key 'problem' is missing \(the row has answer, id\); add it or set",
        ),
        ({"id": "b", "problem": "Why?"}, r"row 2: key 'answer' is missing .* add it or set answer_column"),
        ({"id": "b", "problem": "Why?", "answer": None}, r"row 2: key 'answer' is empty; fill it in"),
        ({"id": "b", "problem": "Why?", "answer": " "}, r"row 2: key 'answer' is empty"),
        ({"id": "b", "problem": "", "answer": "2"}, r"row 2: key 'problem' is empty"),
        (
            {"id": "b", "problem": "Why?", "answer": "two"},
            r"row 2: key 'answer': 'two' is not an integer .* correct it",
        ),
        ({"id": "b", "problem": "Why?", "answer": "2.5"}, r"'2.5' is not an integer from 0 to 999"),
        ({"id": "b", "problem": "Why?", "answer": 1000}, r"'1000' is not an integer from 0 to 999"),
        ({"id": "b", "problem": "Why?", "answer": "-1"}, r"'-1' is not an integer from 0 to 999"),
        (
            {"id": "a", "problem": "Why?", "answer": "2"},
            r"row 2: key 'id': 'own/a' occurs twice; give every row",
        ),
        (
            GOOD | {"id": "b", "answer": "3"},
            r"row 2: key 'answer': answer '3' to a problem that stands earlier",
        ),
        (["a", "list"], r"row 2: not a JSON object"),
    ],
)
def test_a_bad_row_is_one_line_with_file_row_key_and_remedy(tmp_path, row, message):
    path = jsonl(tmp_path / "own.jsonl", GOOD, row)
    with pytest.raises(ValueError, match=message) as caught:
        read_problem_set(source(path), seed=0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n{oops\n")
    with pytest.raises(ValueError, match=r"own\.jsonl: row 3: not valid JSON"):
        read_problem_set(source(path), seed=0)


def test_expressions_are_allowed_where_the_recipe_says_so(tmp_path):
    path = jsonl(tmp_path / "own.jsonl", GOOD | {"answer": r"\frac{1}{2}"})
    assert read_problem_set(source(path, answer="expression"), seed=0).rows[0].answer == r"\frac{1}{2}"
    with pytest.raises(ValueError, match="set answer = 'expression' for this problem set"):
        read_problem_set(source(path), seed=0)


def test_parquet_with_other_columns_and_float_answers(tmp_path):
    path = tmp_path / "own.parquet"
    pandas.DataFrame({"Question": ["1 + 1", "2 + 3"], "Result": [2.0, 5.0]}).to_parquet(path)
    settings = {"problem_column": "Question", "answer_column": "Result"}
    assert [row.answer for row in read_problem_set(source(path, **settings), seed=0).rows] == ["2", "5"]
    with pytest.raises(ValueError, match=r"own\.parquet: row 1: key 'problem' is missing .*Question, Result"):
        read_problem_set(source(path), seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, r"problem set 'own': no file .*missing\.jsonl; correct its path"),
        ("empty.jsonl", b"\n", r"problem set 'own': no rows"),
        ("own.csv", b"problem,answer\n", r"problem set 'own': no rows"),
        ("own.xlsx", b"PK", r"own\.xlsx is none of \.jsonl, .*\.parquet; convert it"),
        ("own.parquet", b"PK not parquet", r"own\.parquet: not a parquet file"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_problem_set(source(path), seed=0)


def test_repeats_are_dropped_and_counted_up_to_the_limit(tmp_path):
    rows = [{"problem": f"What is {n} + 1?", "answer": n + 1} for n in (1, 2, 2, 3, 1)]
    path = jsonl(tmp_path / "own.jsonl", *rows)
    problem_set = read_problem_set(source(path), seed=0)
    assert [row.answer for row in problem_set.rows] == ["2", "3", "4"]
    assert problem_set.num_repeats == 2
    assert len(read_problem_set(source(path, limit=2), seed=0).rows) == 2


def test_nested_columns_and_wrapped_instructions_as_in_dapo():
    columns = Columns("prompt.0.content", "reward_model.ground_truth", False, "problem.\n\n", "\n\nRemember")
    text = "Solve. The last line is the answer to the problem.\n\nWhat is $x$?\n\nRemember to put it on its own line."
    row = {"prompt": [{"content": text, "role": "user"}], "reward_model": {"ground_truth": "34"}}
    rows, _ = check_rows([("row 1", row)], columns, "dapo")
    assert (rows[0].problem, rows[0].answer) == ("What is $x$?", "34")
    with pytest.raises(ValueError, match=r"row 1: key 'prompt\.0\.content' is missing"):
        check_rows([("row 1", {"prompt": []})], columns, "dapo")


@pytest.mark.parametrize("revision", ["main", "v1.0", "2fe88a2f1091"])
def test_a_revision_that_can_move_is_refused(revision):
    with pytest.raises(ValueError, match=rf"revision '{revision}' is not a commit hash of 40 hex digits"):
        read_problem_set(ProblemSource(name="aime", source="hub", id="a/b", revision=revision), seed=0)


def test_the_tiny_world_is_a_problem_set_like_any_other():
    tiny = ProblemSource(name="tiny", source="tiny", split="held_out", limit=25)
    first, again, other = (read_problem_set(tiny, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first.rows) == 25
    assert all(row.family and row.id.startswith("tiny/") for row in first.rows)
