"""The scripted teacher: declared rates, variety, and equal traces for equal seeds."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.teachers.faults import break_program, break_tags, forge_output, other_answer
from tasks.synthesize.teachers.script import ScriptTeacher
from tasks.synthesize.traces import Fault, TrainingProblem
from tasks.synthesize.verify import Rules, verify
from tests.unit.synthesize.in_process import InProcessRunner

NO_FAULTS = {
    "wrong_program_rate": 0.0,
    "syntax_error_rate": 0.0,
    "fabricated_output_rate": 0.0,
    "wrong_answer_rate": 0.0,
    "broken_tags_rate": 0.0,
}
ALL_FAULTS = dict.fromkeys(NO_FAULTS, 0.1)


def teacher(rules: Rules, seed: int = 0, **settings: float) -> ScriptTeacher:
    return ScriptTeacher(SynthesizeConfig(**settings), rules, InProcessRunner(), seed)


@pytest.mark.parametrize("dialect", ["retool", "torl", "hermes"])
def test_only_good_traces_are_kept(dialect, problems, retool):
    rules = replace(retool, dialect=DIALECTS[dialect])
    writer = teacher(rules, code_share=0.7, correction_share=0.3, check_share=0.3, **ALL_FAULTS)
    kinds: Counter[Fault] = Counter()
    for problem in problems:
        written = writer.write_trace(problem, 0)
        verdict = verify(written, rules, InProcessRunner())
        kinds[written.fault] += 1
        assert verdict.accepted == (written.fault is Fault.NONE), (written, verdict)
    assert min(kinds[fault] for fault in Fault) >= 10, kinds


def test_a_faultless_teacher_is_accepted_in_the_declared_shares(problems, retool):
    writer = teacher(retool, code_share=0.6, correction_share=0.25, check_share=0.2, **NO_FAULTS)
    verdicts = [verify(writer.write_trace(problem, 0), retool, InProcessRunner()) for problem in problems]
    assert all(verdict.accepted for verdict in verdicts)
    with_code = [verdict for verdict in verdicts if verdict.block_status]
    corrected = [verdict for verdict in with_code if verdict.block_status[0] == "error"]
    # four standard deviations of a binomial share
    assert len(with_code) / len(verdicts) == pytest.approx(0.6, abs=0.08)
    assert len(corrected) / len(with_code) == pytest.approx(0.25, abs=0.092)
    assert {len(verdict.block_status) for verdict in with_code} == {1, 2, 3}


def test_the_call_limit_of_the_recipe_is_kept(problems, retool):
    rules = replace(retool, max_calls=1)
    writer = teacher(rules, code_share=1.0, correction_share=1.0, check_share=1.0, **NO_FAULTS)
    assert all(verify(writer.write_trace(p, 0), rules, InProcessRunner()).accepted for p in problems[:50])


def test_the_text_dialect_gets_reasoning_without_code(problems):
    rules = Rules(DIALECTS["text"], 0, "full", announce_remaining_calls=False, stateful=False)
    writer = teacher(rules, code_share=0.0, **NO_FAULTS)
    traces = [writer.write_trace(problem, 0) for problem in problems[:50]]
    assert all("python" not in written.trace for written in traces)
    assert all(verify(written, rules, InProcessRunner()).accepted for written in traces)


def test_traces_follow_from_seed_problem_and_index_alone(problems, retool):
    some = problems[:30]
    first = [teacher(retool, seed=1).write_trace(problem, 0) for problem in some]
    backwards = [teacher(retool, seed=1).write_trace(problem, 0) for problem in reversed(some)]
    assert first == backwards[::-1]
    assert first != [teacher(retool, seed=2).write_trace(problem, 0) for problem in some]
    assert len({teacher(retool).write_trace(some[0], index).trace for index in range(20)}) > 5


def test_a_problem_of_no_known_family_is_refused(retool):
    foreign = TrainingProblem("aime/1", "Find the number of ways.", "7", "aime", "")
    with pytest.raises(
        ValueError, match=r"aime/1: synthesize\.mode = 'script' writes traces for the tiny world"
    ):
        teacher(retool).write_trace(foreign, 0)


def test_an_outage_stops_the_teacher(problems, retool):
    config = SynthesizeConfig(code_share=1.0, **NO_FAULTS)
    writer = ScriptTeacher(config, retool, InProcessRunner(outage_on="print"), 0)
    with pytest.raises(RuntimeError, match="the sandbox failed while the teacher wrote"):
        writer.write_trace(problems[0], 0)


@pytest.mark.parametrize("seed", range(8))
def test_broken_programs_do_not_run(seed):
    program = break_program("x = 3\nprint(x * (2 + 1))", Random(seed))
    assert InProcessRunner().submit(program).result().status == "error"


def test_another_answer_is_never_the_answer():
    for value in range(1000):
        assert other_answer(str(value), Random(value)) != str(value)
    draws = Random(0)
    assert {other_answer("0", draws) for _ in range(20000)} == {str(value) for value in range(1, 1000)}


def test_a_forged_output_replaces_the_real_one_whole():
    for seed in range(50):
        answer, forged = forge_output("17\n", "17", Random(seed))
        assert forged != "17\n"
        assert answer == "17" or f"{answer}\n" == forged


@pytest.mark.parametrize("name", ["retool", "torl", "hermes", "text"])
def test_broken_tags_change_the_trace_every_time(name):
    dialect = DIALECTS[name]
    call = dialect.write_call("print(5)") + dialect.feedback("5") if dialect.runs_code else ""
    trace = f"Now.\n{call}So.\n{dialect.write_answer('5')}"
    assert all(break_tags(trace, dialect, Random(seed)) != trace for seed in range(100))
