"""Grading around the comparison: reasons, the last box, hostile text, threads."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.shared.grading import GradeReason, grade, last_box
from tasks.shared.grading.equivalence import Equivalence, Verdict
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("text", "truncated", "reason", "predicted"),
    [
        ("<answer>\n\\boxed{42}\n</answer>", False, GradeReason.CORRECT, "42"),
        ("\\boxed{41} no, \\boxed{42}", False, GradeReason.CORRECT, "42"),
        ("\\boxed{42} or rather \\boxed{41}", False, GradeReason.WRONG, "41"),
        ("the answer is 42", False, GradeReason.NO_BOX, None),
        ("the answer is 42", True, GradeReason.TRUNCATED, None),
        ("", False, GradeReason.NO_ANSWER, None),
        ("\\boxed{}", False, GradeReason.NO_ANSWER, None),
        ("\\boxed{4", False, GradeReason.NO_ANSWER, None),
        ("\\boxed{42}, that is \\boxed{4", True, GradeReason.CORRECT, "42"),
        ("\\boxed{42}, as asked in \\boxed{}", False, GradeReason.CORRECT, "42"),
        ("\\boxed{x = \\boxed{42}}", False, GradeReason.CORRECT, "42"),
        ("{ \\boxed{41} } \\boxed{{42} \\boxed{42}", False, GradeReason.CORRECT, "42"),
        ("\\boxed{4", True, GradeReason.TRUNCATED, None),
        ("\\boxed 42", False, GradeReason.NO_ANSWER, None),
        ("\\boxed{42} and more words", True, GradeReason.CORRECT, "42"),
        ("\\boxed{\\frac{84}{2}}", False, GradeReason.CORRECT, "\\frac{84}{2}"),
        ("\\boxed{\\text{a \\} b}}", False, GradeReason.WRONG, "\\text{a \\} b}"),
    ],
)
def test_reason(text: str, truncated: bool, reason: GradeReason, predicted: str | None) -> None:
    """Every verdict has its reason, and only the last box counts."""
    result = grade(text, "42", truncated)
    assert (result.reason, result.predicted) == (reason, predicted)
    assert result.correct == (reason is GradeReason.CORRECT)


def test_open_boxes_are_read_in_linear_time() -> None:
    """A response of open boxes alone is read in one pass."""
    started = time.process_time()
    assert last_box("\\boxed{" * 100_000) == ""
    assert time.process_time() - started < 5.0  # takes 0.1 s; scanning to the end for each box took minutes


def test_an_empty_reference_is_the_users_mistake() -> None:
    """An empty reference equals no answer."""
    with pytest.raises(ValueError, match="reference answer is empty"):
        grade("\\boxed{1}", " ")


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        (" 070 ", True),
        ("$70$", True),
        ("+70", True),
        ("70.", True),
        ("70.0", True),
        ("\\text{70}", True),
        ("\\mathbf{70}", True),
        ("70\\text{ cm}^2", True),
        ("70^\\circ", True),
        ("\\$70", True),
        ("-70", False),
        ("1,070", False),
        ("70.5", False),
        ("70, 71", False),
        ("70\\text{ or }72", False),
        ("\\binom{8}{4}", False),
        ("\\gcd(140,210)", False),
        ("73 - 3", False),
        ("x = 70", True),
        ("n=70", True),
        ("m+n = 70", True),
        ("\\angle ABC = 70^\\circ", True),
        ("**70**", True),
        ("\\underline{70}", True),
        ("\\displaystyle 70", True),
        ("{70}", True),
        ("(70)", True),
        ("[70]", True),
        ("\\{70\\}", True),
        ("７０", True),
        ("70,", True),
        ("70 cm", True),
        ("70 km/h", True),
        ("70°", True),
        ("7e1", True),
        ("np.int64(70)", True),
        ("Integer(70)", True),
        ("70 students", True),
        ("69 = 70", False),
        ("69+1", False),
        ("69+1 = 70", False),
        ("70 or 71", False),
        ("70, 70", False),
        ("\\{70, 71\\}", False),
        ("70x", False),
        ("70!", False),
        ("7 \\times 10^1", False),
        ("\\frac{70}{1}", False),
        ("70 million", False),
        ("70 six", False),
        ("70 xyz", False),
        ("70 maybe", False),
        ("x^{-1} = 70", False),
        ("not n = 70", False),
        ("70\\text{ or more}", False),
        ("x > 70", False),
        ("2x = 70", False),
        ("\\pm 70", False),
        ("\\approx 70", False),
        ("69.\\overline{9}", False),
        ("sqrt(4900)", False),
        ("7_0", False),
        ("70_8", False),
        ("7000\\%", False),
        ("\\lfloor\\sqrt{5000}\\rfloor", False),
        ("\\int_0^1 140x dx", False),
    ],
)
def test_an_integer_is_answered_by_a_literal_alone(answer: str, correct: bool) -> None:
    """In a set of integers the problem's formula in a box is wrong although its value is right."""
    result = grade(f"\\boxed{{{answer}}}", "70", integer=True)
    assert result.reason is (GradeReason.CORRECT if correct else GradeReason.WRONG)


def test_thousands_are_read_in_an_integer() -> None:
    for answer in ("12,345", "12{,}345", "12345", "12 345", "12\\,345", "12_345", "12,345.0"):
        assert grade(f"\\boxed{{{answer}}}", "12345", integer=True).correct


@pytest.mark.parametrize(
    "hostile",
    [
        "9^{9^{9^9}}",
        "10^{10^{10}}",
        "{" * 400 + "}" * 400,
        "(" * 300 + "1" + ")" * 300,
        "1" * 5000,
        "\\frac" * 200,
        "__import__('os').system('touch pwned')",
        "\x00\ud800 \\char",
        "\\sqrt[" + "9" * 300 + "]{2}",
        "a/ " * 40 + "1 = 70",
        "\\alpha" * 40 + "1 = 70",
    ],
)
def test_hostile_answers_end_in_time_and_earn_nothing(hostile: str) -> None:
    """Bounded processor time, no exception, graded wrong, and the next comparison works."""
    started = time.process_time()
    assert not grade(f"\\boxed{{{hostile}}}", "5").correct
    assert time.process_time() - started < 2.0  # the caller waits without computing
    assert grade("\\boxed{\\frac{10}{2}}", "5").correct


def test_a_dead_worker_is_replaced() -> None:
    """Memory exhausted by one comparison does not affect the next."""
    equivalence = Equivalence(cpu_s=1, memory_mb=700)
    assert equivalence.compare("2^{3^{30}}", "7") is not Verdict.EQUAL
    assert equivalence.compare("2+2", "4") is Verdict.EQUAL


def test_a_process_with_many_open_files_can_grade() -> None:
    """The worker's pipes may have any number."""
    program = (
        "import os, resource as r\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (1200, max(1200, r.getrlimit(r.RLIMIT_NOFILE)[1])))\n"
        "held = [os.open('/dev/null', os.O_RDONLY) for _ in range(1100)]\n"
        "from tasks.shared.grading import grade\n"
        "print(grade('\\\\boxed{2/4}', '1/2').reason)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "correct\n", done.stderr


def test_threads_share_the_worker() -> None:
    """Grading uses no signal and works off the main thread; answers are not mixed up."""
    cases = [
        (f"{n} + {k}", str(n + k if k % 2 else n + k + 1), k % 2 == 1) for n in range(10) for k in range(1, 5)
    ]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda case: grade(f"\\boxed{{{case[0]}}}", case[1]).correct, cases))
    assert results == [equal for *_, equal in cases]


def test_the_worker_ends_with_its_owner() -> None:
    """A killed stage leaves no grader."""
    program = (
        "from tasks.shared.grading.equivalence import shared_equivalence as s\n"
        "s().compare('1+1', '2'); print(s()._process.pid); import os; os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    worker = Path(f"/proc/{json.loads(done.stdout)}")
    until(lambda: not worker.exists() or "\nState:\tZ" in (worker / "status").read_text())


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_graded(text: str) -> None:
    """Grading never raises, and text without braces in a box is read back from it."""
    grade(text, "5")
    if not set(text) & set("{}\\") and text.strip():
        assert last_box(f"a \\boxed{{{text}}} b") == text.strip()
