r"""Values of problems and answers in rows; others are refused rather than converted by `str`."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from tasks.prepare.rows import Columns, check_rows
from tasks.shared.rows.values import answer_at, encoding_hint, id_at, name_at, problem_at

USER = {"role": "user", "content": "What is 1 + 1?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def answer(value: Any, several: str = "refuse", column: str = "answer") -> str:
    return answer_at({"problem": "x", column: value}, "answer", "a.jsonl: row 3", "answer_column", several)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (21, "21"),
        (21.0, "21"),
        ("21.50", "21.50"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (1e22, "1" + "0" * 22),
        (Decimal("2.50"), "2.50"),
        (["21"], "21"),
        ([[21]], "21"),
        ("['21']", "21"),
        ('["\\\\frac{1}{2}"]', r"\frac{1}{2}"),
        ("[21]", "21"),
        ("[1, 2]", "[1, 2]"),
        ("She has 3.\nSo 20 + 1 = 21.\n#### 21", "21"),
        ("#### 1,234", "1,234"),
        (r"We find $x = 21$, so \boxed{20}? No: the answer is \boxed{21}.", "21"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"so $\boxed{21}$", "21"),
        (r"We get \boxed 21.", "21"),
        (r"so \fbox{21}", "21"),
        ("21.", "21"),
        ("2.50.", "2.50"),
        ("$21$", "21"),
        ("$$ 21 $$.", "21"),
        (r"\(21\)", "21"),
        (r"\[ \frac{1}{2} \]", r"\frac{1}{2}"),
        ("$x$ and $y$", "$x$ and $y$"),
        (r"\(a\) or \(b\)", r"\(a\) or \(b\)"),
        (r"\$21", r"\$21"),
        ("no", "no"),
        ("True", "True"),
    ],
)
def test_answers_as_public_sets_write_them(value: Any, read: str) -> None:
    assert answer(value) == read


@pytest.mark.parametrize("value", [["1", 2], [["1"], [2.0]], "['1', '2']", ["$1$", r"\boxed{2}"]])
def test_several_answers_are_a_set_where_the_recipe_says_so(value: Any) -> None:
    assert answer(value, "set") == r"\{1, 2\}"
    with pytest.raises(ValueError, match=r"holds 2 answers; .*several_answers = 'set'"):
        answer(value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (True, "is a boolean; write it as text"),
        ([True], "is a boolean"),
        ({"value": 21}, r"is an object with value; set answer_column, like 'answer\.value'"),
        (float("nan"), "is nan and no number"),
        (float("inf"), "is inf and no number"),
        (Decimal("NaN"), "is NaN and no number"),
        (b"21", "is of type bytes"),
        (date(2026, 1, 1), "is of type date"),
        ((1, 2), "is of type tuple"),
        (None, "is empty"),
        ([], "is empty"),
        ("  ", "is empty"),
        ("nan", "is 'nan', no answer"),
        ("NULL", "is 'NULL', no answer"),
        (r"so \boxed{", r"ends in a \\boxed that is empty or not closed"),
        (r"\boxed{}", r"ends in a \\boxed that is empty"),
        ("caf\udce9", r"is not UTF-8, byte 0xe9"),
        ("\ud800", "holds half of a surrogate pair"),
        ("9" * 1_000_001, "has 1000001 characters, over 1000000"),
    ],
)
def test_what_is_no_answer_is_refused_with_row_and_key(value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        answer(value)
    assert str(caught.value).startswith("a.jsonl: row 3: key 'answer' ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("column", ["Answer", "ANSWER", " answer "])
def test_columns_in_another_case(column: str) -> None:
    assert answer("2", column=column) == "2"
    with pytest.raises(ValueError, match="key 'answer' is missing"):
        answer_at({"Answer": "1", "ANSWER": "2"}, "answer", "row 1", "answer_column")


def problem(value: Any, column: str = "prompt") -> tuple[str, str]:
    return problem_at({"prompt": value}, column, "row 1", "problem_column")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("What is 1 + 1?", (USER["content"], "")),
        ([USER], (USER["content"], "")),
        ([SYSTEM, USER], (USER["content"], "Be brief.")),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, USER], (USER["content"], "")),
        ([USER, {"role": "assistant", "content": "2"}], (USER["content"], "")),
        (json.dumps([SYSTEM, USER]), (USER["content"], "Be brief.")),
        (USER, (USER["content"], "")),
        ([{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Why?"}], ("Why?", "Be brief.")),
        ([{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"text": "y?"}]}], ("Why?", "")),
        (["What is 1 + 1?"], (USER["content"], "")),
        ("[{ not json", ("[{ not json", "")),
    ],
)  # fmt: skip
def test_prompts_as_public_sets_write_them(value: Any, read: tuple[str, str]) -> None:
    assert problem(value) == read


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([SYSTEM], "holds messages of system and none of the user"),
        ([{"role": "user", "content": None}], "is empty"),
        ([{"role": "user", "content": {"text": "Why?"}}], "is an object with text"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
            "holds a message with an image or other part",
        ),
        (["Why?", "How?"], r"is a list of 2; set problem_column to one of them, like 'prompt\.0'"),
        ({"question": "Why?"}, r"is an object with question; set problem_column, like 'prompt\.question'"),
        (False, "is a boolean"),
    ],
)
def test_what_is_no_prompt_is_refused(value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"row 1: key 'prompt' {why}"):
        problem(value)


def test_dotted_columns_step_into_lists_and_objects() -> None:
    assert problem([{"role": "user", "content": "Why?"}], "prompt.0.content") == ("Why?", "")
    for column in ("prompt.1.content", "prompt.0.text", "prompt.x", "prompt.0.content.0"):
        with pytest.raises(ValueError, match="is missing"):
            problem([{"role": "user", "content": "Why?"}], column)


def test_ids_are_texts_or_numbers() -> None:
    assert [id_at({"ID": value}, "row 1") for value in (3, 3.0, "a", None, "")] == ["3", "3", "a", "", ""]
    with pytest.raises(ValueError, match="key 'id' is nan"):
        id_at({"id": float("nan")}, "row 1")
    assert [name_at({"Family": value}, "family") for value in ("a ", ["a"], {"a": 1}, 3, None)] == [
        "a",
        "",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("$21$", "21"),
        (["021"], "021"),
        ("21.0", "21"),
        (21.0, "21"),
        ("#### 1,2", None),
        ("1,000", None),
        ("0.5", None),
        ("\u0662\u0661", None),
    ],
)
def test_integer_sets_take_every_spelling_of_an_integer(value: Any, read: str | None) -> None:
    rows = [("row 1", {"problem": "Why?", "answer": value})]
    columns = Columns("problem", "answer", integer=True)
    if read is None:
        with pytest.raises(ValueError, match=r"is not an integer from 0 to 999; .*answer = 'expression'"):
            check_rows(rows, columns, "own")
    else:
        assert check_rows(rows, columns, "own")[0][0].answer == read


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("Quelle est la valeur de l'entier déjà trouvé là où x naît?", "latin-1", "looks like cp1252"),
        ("Найдите сумму всех целых чисел, для которых это верно", "cp1251", "looks like cp1251"),
        ("求所有满足条件的整数的和是多少", "gbk", "looks like gb18030"),
        ("次の条件を満たす整数をすべて求めよ", "shift_jis", "looks like cp932"),
    ],
)
def test_another_encoding_is_named(text: str, encoding: str, message: str) -> None:
    assert message in encoding_hint(text.encode(encoding).decode("utf-8", "surrogateescape"))
    assert encoding_hint(text) == ""
