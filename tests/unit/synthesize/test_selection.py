"""Selection, filter by filter, on traces that verification accepted."""

import json
from collections import Counter
from typing import cast

import pytest
from pydantic import ValidationError

from data.problems import Split, generate
from tasks.recipes import load_recipe
from tasks.shared.rows.ngrams import gram_owners, shared_gram
from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.selection import References, Vote, select
from tasks.synthesize.selection.balance import shares
from tasks.synthesize.selection.code_work import code_work
from tasks.synthesize.selection.config import SelectionConfig
from tasks.synthesize.selection.near_duplicates import NearDuplicates, signature
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.teachers.script import ScriptTeacher
from tasks.synthesize.traces import Checked, Reason, TrainingProblem, Verdict, WrittenTrace
from tasks.synthesize.verify import Rules, verify
from tests.unit.synthesize.in_process import InProcessRunner

DIALECT = DIALECTS["retool"]
LOOP = "print(sum(k * k for k in range(30)) % 7)"
DEEP = f"print({' + '.join(map(str, range(1500)))})"  # a tree deeper than Python recurses
OFF = SelectionConfig(
    require_code=False, min_code_work=0, max_similarity=1.0, decontaminate_ngram=0, max_chars=0
)


def accepted(
    name: str = "p/0",
    words: str = "I count.",
    codes: tuple[str, ...] = (LOOP,),
    answer: str = "5",
    source: str = "s",
    end: str = "So it is.",
) -> Checked:
    problem = TrainingProblem(name.rpartition("/")[0], f"What is asked in {name}?", answer, source, "")
    blocks = [
        f"{words}\n{DIALECT.write_call(code)}{DIALECT.feedback(str(n))}" for n, code in enumerate(codes)
    ]
    trace = "".join([*(blocks or [words]), end, "\n", DIALECT.write_answer(answer)])
    status = ("ok",) * len(codes)
    verdict = Verdict(Reason.ACCEPTED, "", status, (0.1,) * len(codes), trace)
    return WrittenTrace(name, problem, trace), verdict


def reasons(checked: list[Checked], config: SelectionConfig, references: References | None = None):
    selected = select(checked, config, DIALECT, references or References())
    return [verdict.reason for _, verdict in selected]


def only(**settings: object) -> SelectionConfig:
    return OFF.model_copy(update=settings)


@pytest.mark.parametrize(
    ("config", "trace", "reason"),
    [
        ({"require_code": True}, accepted(codes=()), Reason.NO_CODE),
        ({"require_code": True}, accepted(words="The answer is 5, I check it."), Reason.ANSWER_BEFORE_CODE),
        ({"require_code": True}, accepted(words="The answer is 55 or more."), Reason.ACCEPTED),
        ({"require_code": True}, accepted(end="The answer is 5."), Reason.ACCEPTED),
        ({"min_code_work": 3}, accepted(codes=("print(2 + 3)",)), Reason.TRIVIAL_CODE),
        ({"min_code_work": 3}, accepted(codes=("print(2 + 3)", LOOP)), Reason.ACCEPTED),
        ({}, accepted(codes=(LOOP, f"# again\n{LOOP}")), Reason.REPEATED_BLOCK),
        ({}, accepted(codes=(DEEP, f"# again\n{DEEP}")), Reason.ACCEPTED),
        ({}, accepted(codes=(DEEP, f"{DEEP}\n")), Reason.REPEATED_BLOCK),
        ({"repeated_blocks": "keep"}, accepted(codes=(LOOP, LOOP)), Reason.ACCEPTED),
        ({"max_chars": 100}, accepted(), Reason.TOO_LONG),
        ({}, accepted(words="我们用程序来计算这个数。"), Reason.OTHER_SCRIPT),
        ({}, accepted(words="Für α und β ist ℝ gemeint; naïve façade."), Reason.ACCEPTED),
        ({"min_latin_share": 0.0}, accepted(words="我们用程序来计算这个数。"), Reason.ACCEPTED),
    ],
)
def test_quality(config, trace, reason):
    assert reasons([trace], only(**config)) == [reason]


def test_rejected_traces_keep_the_first_reason_and_scores():
    written, verdict = accepted()
    rejected = (written, Verdict(Reason.WRONG_ANSWER, "", ("ok",), (0.1,), written.trace))
    selected = select([rejected, (written, verdict)], only(require_code=True), DIALECT, References())
    assert selected[0] == rejected
    assert selected[1][1].scores.code_work == code_work(LOOP)
    assert selected[1][1].scores.latin_share == 1.0


@pytest.mark.parametrize(
    ("code", "work"),
    [
        ("print(88)", 0),
        ("print(-88)", 0),
        ("x = 12\nprint(x * 7)", 1),
        ("print(pow(3, 45, 7))", 3),
        ("for k in range(9):\n    print(k)", 3),
        ("import math\nprint(math.comb(30, 4) % 7)", 4),
        ("def f(n):\n    return n * n\nprint(f(3))", 1),
        ("print(sum(k for k in range(9) if k % 2))", 7),
        ("this is no program", 0),
    ],
)
def test_the_work_of_a_block(code, work):
    assert code_work(code) == work


class Opinion:
    """A judge with a written opinion for each problem."""

    def __init__(self, votes: dict[str, list[Vote]]) -> None:
        self.votes, self.asked = votes, Counter[str]()

    def vote(self, problem: TrainingProblem, trace: str) -> list[Vote]:
        self.asked[problem.id] += 1
        return self.votes[problem.id]


def test_the_judges_majority_decides_on_code_that_other_filters_keep():
    yes, no, half = Vote(True, True), Vote(False, False), Vote(True, False)
    judge = Opinion({"a": [yes, yes, no], "b": [yes, half, half], "c": [], "d": [no], "e": [no]})
    traces = [accepted(f"{name}/0") for name in "abc"]
    traces += [accepted("d/0", codes=("print(1)",)), accepted("e/0", codes=())]
    config = only(min_code_work=3)
    selected = select(traces, config, DIALECT, References(judge=judge))
    assert [verdict.reason for _, verdict in selected] == [
        Reason.ACCEPTED,
        Reason.VOTED_OUT,
        Reason.VOTED_OUT,
        Reason.TRIVIAL_CODE,
        Reason.ACCEPTED,
    ]
    assert judge.asked == Counter("abc")
    assert selected[0][1].scores.novelty == pytest.approx(2 / 3)
    assert selected[1][1].scores.significance == pytest.approx(1 / 3)


# --- near-duplicates


def jaccard(first: str, second: str, size: int = 5) -> float:
    """The exact similarity that MinHash estimates."""
    sets = []
    for text in (first, second):
        tokens = text.split()
        sets.append({tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("changed", [0, 1, 4, 10, 40])
def test_the_estimate_is_near_the_exact_similarity(changed):
    tokens = [f"w{number}" for number in range(400)]
    other = [
        f"x{place}" if changed and place % (400 // changed) == 9 else token
        for place, token in enumerate(tokens)
    ]
    first, second = " ".join(tokens), " ".join(other)
    estimate = float((signature(first) == signature(second)).mean())
    assert estimate == pytest.approx(jaccard(first, second), abs=4 * 0.046)


def test_the_first_of_its_kind_is_kept_and_named():
    text = " ".join(f"w{number}" for number in range(200))
    kept = NearDuplicates(0.8)
    assert kept.add("a", text) is None
    assert kept.add("b", " ".join(f"v{number}" for number in range(200))) is None
    assert kept.add("c", text.replace("w7 ", "w8 "))[0] == "a"
    assert kept.add("d", text) == ("a", 1.0)


def test_equal_programs_with_other_outputs_are_near_duplicates():
    first, (written, verdict) = accepted("a/0"), accepted("b/0")
    other = verdict.trace.replace("\n0\n", "\n1\n")
    second = (written, Verdict(Reason.ACCEPTED, "", ("ok",), (0.1,), other))
    assert reasons([first, second], only(max_similarity=0.8)) == [Reason.ACCEPTED, Reason.NEAR_DUPLICATE]


# --- decontamination, difficulty


def test_a_trace_that_quotes_an_evaluation_problem_is_out():
    quoted = "Let N be the number of ways to seat nine people at two tables"
    grams = gram_owners([("aime/1", quoted)], 8)
    traces = [
        accepted("a/0", words=f"I recall: {quoted}."),
        accepted("b/0", words="I seat nine people at two tables."),
        accepted("c/0", codes=(f"# {quoted}\n{LOOP}",)),
    ]
    selected = select(traces, only(decontaminate_ngram=8), DIALECT, References(grams))
    assert [verdict.reason for _, verdict in selected] == [
        Reason.CONTAMINATED,
        Reason.ACCEPTED,
        Reason.CONTAMINATED,
    ]
    assert "aime/1" in selected[0][1].detail


def test_pass_rates_bound_the_difficulty():
    rates = {"a": 0.0, "b": 0.25, "c": 1.0, "What is asked in d/0?": 0.5}
    traces = [accepted(f"{name}/0") for name in "abcde"]
    found = reasons(traces, OFF, References(pass_rates=rates))
    assert found == [Reason.TOO_HARD, Reason.ACCEPTED, Reason.TOO_EASY, Reason.ACCEPTED, Reason.UNRATED]
    narrow = only(min_pass_rate=0.25, max_pass_rate=0.5)
    assert Reason.ACCEPTED not in reasons(traces, narrow, References(pass_rates=rates))


# --- balance


@pytest.mark.parametrize(
    ("sizes", "total", "taken"),
    [
        ((1, 4, 9), 9, (1, 4, 4)),
        ((5, 5), 5, (2, 3)),
        ((2, 2), 9, (2, 2)),
        ((3,), 2, (2,)),
        ((1, 1), 1, (0, 1)),
    ],
)
def test_shares_are_as_equal_as_sizes_allow(sizes, total, taken):
    cells = {("s", number): size for number, size in enumerate(sizes)}
    assert tuple(shares(cells, total).values()) == taken


def test_balance_takes_problems_in_turn_in_any_order():
    traces = [accepted(f"p{problem}/{index}") for problem in range(3) for index in range(4)]
    traces += [accepted("q/0", source="other"), accepted("r/0", codes=())]
    taken = [
        {
            written.id
            for written, verdict in select(order, only(most_traces=8), DIALECT, References())
            if verdict.accepted
        }
        for order in (traces, traces[::-1])
    ]
    assert taken[0] == taken[1] and len(taken[0]) == 8
    assert {"q/0", "r/0"} <= taken[0]
    of_problem = Counter(name.rpartition("/")[0] for name in taken[0] - {"q/0", "r/0"})
    assert set(of_problem.values()) == {2}


def test_settings_that_leave_nothing_are_refused():
    with pytest.raises(ValidationError, match="leaves nothing below max_pass_rate"):
        SelectionConfig(min_pass_rate=0.9, max_pass_rate=0.1)
    assert json.loads(SelectionConfig().model_dump_json())["max_similarity"] == 0.8


@pytest.mark.parametrize("recipe", ["tiny", "tiny_torl", "tiny_text"])
def test_the_tiny_recipes_keep_every_trace_that_verification_accepts(recipe, problems):
    config = cast("SynthesizeStage", load_recipe(recipe).for_stage("synthesize"))
    rules = Rules.of(config)
    teacher = ScriptTeacher(config.synthesize, rules, InProcessRunner(), 0)
    held_out = [(one.id, one.problem) for one in generate(Split.HELD_OUT, 120, seed=0)]
    references = References(gram_owners(held_out, 8))
    clean = [one for one in problems if shared_gram(one.problem, references.grams, 8) is None]
    assert len(clean) > len(problems) - 9, "prepare takes these few out"
    written = [teacher.write_trace(problem, 0) for problem in clean]
    checked = [(one, verify(one, rules, InProcessRunner())) for one in written]
    selected = select(checked, config.synthesize.selection, rules.dialect, references)
    assert [verdict.reason for _, verdict in selected] == [verdict.reason for _, verdict in checked]
