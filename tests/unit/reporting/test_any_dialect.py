"""Metrics, purposes and viewer read any dialect alike: spans from the calls, forms from the dialect alone.

One dialect here is invented, so a new dialect works too.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.report.embedding import CODE, OUTPUT, UNRUN, WORDS, segments
from tasks.shared.evaluation.problems import EvaluationProblem
from tasks.shared.evaluation.sampling import graded
from tasks.shared.reporting.behaviour import measure
from tasks.shared.reporting.offsets import token_ends
from tasks.shared.reporting.samples import Sample, read_samples, write_samples
from tasks.shared.reporting.summary import purposes
from tasks.shared.traces.call_forms import TagForm
from tasks.shared.traces.dialect import DIALECTS
from tests.unit.generation.tiny import tiny_tokenizer
from tests.unit.traces.rolled import roll

TOKENIZER = tiny_tokenizer()
PROBLEM = EvaluationProblem("p", "set", "What is 1 + 2?", "3", "", integer=True)
MADE_UP = replace(
    DIALECTS["retool"],
    name="made_up",
    form=TagForm(opening="[run]", stop="[/run]", usage="Write [run], the program and [/run]."),
    feedback_open="\n[output]\n",
    feedback_close="\n[/output]\n",
    refused=("[output]", "[/output]"),
)
NAMES = ["retool", "torl", "hermes", "made_up"]


@pytest.fixture(autouse=True)
def _third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALECTS, "made_up", MADE_UP)


def sampled(name: str, *turns: str) -> Sample:
    """The sample of a model that writes these turns."""
    trajectory = roll(TOKENIZER, DIALECTS[name], "".join(turns))
    ends = token_ends(TOKENIZER, trajectory.response_ids, trajectory.text)
    return graded(trajectory, PROBLEM, ends, name)


def mixed(name: str) -> Sample:
    """A block that fails, one that runs, an incomplete one, invented output, an answer."""
    dialect = DIALECTS[name]
    written = [dialect.write_call(code) for code in ("print(x)", "n = 1\n\nprint(n + 2)")]
    broken = (
        dialect.write_call("print(4)").replace('"arguments"', '"argument"', 1).replace("\n```\n", "\n", 1)
    )
    invented = f"It gives {dialect.feedback_mark}\n5{dialect.feedback_close}"
    turns = [f"Let me verify it.\n{written[0]}", f"Once more.\n{written[1]}", f"And.\n{broken}", invented]
    return sampled(name, *turns, dialect.write_answer("3"))


@pytest.mark.parametrize("name", NAMES)
def test_metrics(name: str) -> None:
    sample = mixed(name)
    result = measure([sample, sampled(name, "It is 3. ", DIALECTS[name].write_answer("3"))])
    assert result.code_ratio == result.executed_code_ratio == result.executed_before_answer_ratio == 0.5
    assert (result.num_code_runs, result.num_correct_code_runs, result.code_lines) == (2, 1, 1.5)
    assert (result.last_block_pass_right, result.self_correction) == (1.0, 1.0)
    assert (result.num_unrecognised, result.num_self_written, result.num_notices) == (1, 1, 1)
    assert result.first_code_position is not None
    place = round(result.first_code_position * len(sample.text))
    assert sample.text[:place].startswith("Let me verify it.") and place < sample.text.index("print(x)")
    assert purposes([sample]) == {"calculation": 1, "verification": 1}


@pytest.mark.parametrize("name", NAMES)
def test_the_viewer(name: str) -> None:
    sample = mixed(name)
    cuts = segments(sample)
    assert "".join(sample.text[start:end] for start, end, _, _ in cuts) == sample.text
    shown = {kind: [sample.text[start:end] for start, end, k, _ in cuts if k == kind] for kind in range(4)}
    assert [code.split("\\n")[0].split("\n")[0] for code in shown[CODE]] == ["print(x)", "n = 1"]
    assert len(shown[OUTPUT]) == 3 and "3" in shown[OUTPUT][1]
    assert any("print(4)" in text for text in shown[UNRUN])
    assert "It gives" in shown[WORDS][-1]
    masked = {place for start, end, kind, _ in cuts if kind == OUTPUT for place in range(start, end)}
    ends = (0, *sample.token_ends)
    drawn = {p for i, own in enumerate(sample.sampled) if not own for p in range(ends[i], ends[i + 1])}
    assert masked == drawn


@pytest.mark.parametrize("name", NAMES)
def test_kept_and_read_back(name: str, tmp_path: Path) -> None:
    sample = mixed(name)
    write_samples(tmp_path, [sample])
    [back] = read_samples(tmp_path)
    assert measure([back]) == measure([sample])
    assert segments(back) == segments(sample)
