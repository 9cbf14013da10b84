"""The report in a real browser, from disk: opening time, search, filters, two panes, safety.

Run by `make test-browser`.
"""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from data.papers import load_papers
from tasks.report.behaviour import behaviour_tables, checkpoint_curves
from tasks.report.inputs import EvaluationInput
from tasks.report.page import Page, render
from tasks.report.scores import set_sections
from tasks.report.sections import strips
from tasks.shared.reporting.samples import Sample
from tasks.shared.reporting.summary import summarize
from tests.browser.chromium import Chromium
from tests.unit.reporting.making import make_evaluation, make_sample

READY = "document.documentElement.dataset.ready"
HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


def write_report(
    path: Path,
    evaluations: dict[str, list[Sample]],
    warnings: list[str] | None = None,
    written: dict[str, list[Sample]] | None = None,
) -> Path:
    """A report of these samples, as the stage makes it."""
    inputs = []
    for name, samples in evaluations.items():
        sets = {
            s: summarize([x for x in samples if x.set == s]) for s in dict.fromkeys(x.set for x in samples)
        }
        inputs.append(EvaluationInput(name, samples, {"sets": sets, "allow_unsafe": False}))
    page = Page(
        title="Run test",
        subtitle="made for a test",
        warnings=warnings or [],
        sets=set_sections(inputs),
        curves=[("From checkpoint to checkpoint", checkpoint_curves(inputs, load_papers()))],
        tables=behaviour_tables(inputs, load_papers()),
        checkpoints=list(evaluations),
        strips=strips(inputs),
        evaluations=evaluations,
        written=written or {},
    )
    path.write_text(render(page), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 traces of two checkpoints."""
    evaluations = {"base": make_evaluation(1, 500, 10, 0.1), "sft": make_evaluation(2, 500, 10, 0.5)}
    return write_report(tmp_path_factory.mktemp("report") / "large.html", evaluations)


@pytest.fixture
def opened(browser: Chromium, large: Path) -> Chromium:
    """The large report, ready."""
    browser.open(large)
    browser.wait(READY)
    return browser


def test_ten_thousand_traces_open_in_two_seconds(browser: Chromium, large: Path) -> None:
    """From navigation to a filled list and an open trace. The best of three, since the machine may be busy."""
    times = []
    for _ in range(3):
        browser.open(large)
        times.append(float(browser.wait(READY)))
    assert min(times) < 2000, times
    assert browser.texts("#count") == ["10,000 of 10,000"]
    assert len(browser.texts("#list .row")) < 60  # visible rows only
    assert browser.complaints() == []


def test_scrolling_stays_smooth(opened: Chromium) -> None:
    """A jump anywhere in the list takes less than one frame of script."""
    spent = opened.run(
        "const list = document.getElementById('list'), times = [];"
        "for (let i = 1; i <= 40; i++) { const start = performance.now(); list.scrollTop = i * 11000;"
        " list.dispatchEvent(new Event('scroll')); list.offsetHeight; times.push(performance.now() - start); }"
        "return times.sort((a, b) => a - b)[20]"
    )
    assert spent < 33
    rows = opened.texts("#list .row")
    assert 0 < len(rows) < 60


def test_search_finds_text_inside_traces(opened: Chromium) -> None:
    """Typed with real keys; hits are marked in the open trace; the list holds only matching traces."""
    opened.type("#search", "undefined_7")
    opened.wait("document.getElementById('count').textContent.startsWith('2') || null", 20)
    opened.wait("document.querySelector('#panes mark')")
    assert "".join(opened.texts("#panes mark")).startswith("undefined_7")
    shown = int(opened.run("return document.getElementById('viewer').dataset.shown"))
    assert 0 < shown < 1000
    assert "error" in " ".join(opened.texts("#list .row")[:1])


def test_filters(opened: Chromium) -> None:
    """Each alone and together, counted against the data."""
    samples = [*make_evaluation(1, 500, 10, 0.1), *make_evaluation(2, 500, 10, 0.5)]
    expected = {
        "right": sum(s.correct for s in samples),
        "wrong": sum(not s.correct and not s.outage for s in samples),
        "void": sum(s.outage for s in samples),
        "truncated": 0,
        "code": sum(bool(s.calls) for s in samples),
    }
    for verdict, count in expected.items():
        opened.choose("#verdict", verdict)
        opened.wait(f"document.getElementById('viewer').dataset.shown === '{count}'")
    opened.click("#error")
    failed = sum(any(call.status == "error" for call in s.calls) for s in samples)
    opened.wait(f"document.getElementById('viewer').dataset.shown === '{failed}'")
    opened.choose("#checkpoint", "1")
    failed = sum(any(call.status == "error" for call in s.calls) for s in samples[5000:])
    opened.wait(f"document.getElementById('viewer').dataset.shown === '{failed}'")


def test_two_checkpoints_side_by_side_on_the_same_problem(opened: Chromium) -> None:
    """The second pane shows the same problem and sample of the other checkpoint, also after a step."""
    opened.choose("#checkpoint", "0")
    opened.wait("document.getElementById('viewer').dataset.shown === '5000'")
    opened.choose("#beside", "1")
    opened.wait("document.querySelectorAll('#panes .pane').length === 2")
    opened.click("#next")
    opened.wait("document.querySelector('#panes .head').textContent.includes('sample 1 ')")
    first, second = opened.texts("#panes .head")
    assert "base" in first and "sft" in second
    assert first.split("\u00b7")[2:4] == second.split("\u00b7")[2:4]


def test_masked_spans_code_and_log_probs(opened: Chromium, tmp_path: Path) -> None:
    """Output is set apart, code is highlighted with its status, hovering a token shows its log-prob."""
    opened.choose("#verdict", "code")
    opened.wait("document.querySelector('#panes .segment.code .kw')")
    output = opened.texts("#panes .segment.output")[0]
    assert output.strip().startswith("<interpreter>") and output.strip().endswith("</interpreter>")
    assert opened.texts("#panes .segment.code .badge")[0].startswith(("ok", "error"))
    opened.hover("#panes .segment.code .kw")
    assert opened.texts("#tip")[0].startswith("log-prob ")
    opened.hover("#panes .segment.output .token")
    assert opened.texts("#tip") == ["interpreter output (masked)"]
    opened.screenshot(tmp_path / "viewer.png")
    assert (tmp_path / "viewer.png").stat().st_size > 20_000


def test_a_heat_strip_leads_to_its_traces(opened: Chromium) -> None:
    """A click filters by that problem and checkpoint."""
    opened.run("document.querySelector('canvas.strip').scrollIntoView({ block: 'center' })")
    opened.click("canvas.strip")
    opened.wait("document.getElementById('viewer').dataset.shown === '10'")
    assert opened.run("return document.getElementById('checkpoint').value") == "0"


def test_written_traces_stand_beside_samples_without_log_probs(browser: Chromium, tmp_path: Path) -> None:
    """A rejected trace on a problem of an evaluation: its reason is found and shown, its text has no log-probs."""
    sample = make_sample([("print(6 * 7)", "ok", "42")])
    pieces = {"response_ids": (), "sampled": (), "logprobs": (), "num_tokens": 0}
    rejected = replace(sample, **pieces, correct=False, reason="output_differs: block 1", predicted=None)
    report = write_report(tmp_path / "written.html", {"sft": [sample]}, None, {"rejected traces": [rejected]})
    browser.open(report)
    browser.wait(READY)
    browser.type("#search", "output_differs")
    browser.wait("document.getElementById('viewer').dataset.shown === '1'")
    browser.choose("#beside", "0")
    browser.wait("document.querySelectorAll('#panes .pane').length === 2")
    first, second = browser.texts("#panes .head")
    assert "rejected traces" in first and "(output differs: block 1)" in first and "sft" in second
    browser.hover("#panes .pane:first-child .token")
    assert browser.run("return document.getElementById('tip').hidden")
    browser.hover("#panes .pane:last-child .token")
    assert browser.texts("#tip")[0].startswith("log-prob ")


def test_what_a_model_wrote_cannot_run(browser: Chromium, tmp_path: Path) -> None:
    """Hostile text in code, output, reasoning, answer, problem, ids, set and warning is shown as text, never run."""
    block = (f"print('''{HOSTILE}''')", "ok", HOSTILE)
    sample = make_sample(
        [block],
        predicted=HOSTILE,
        problem_id=HOSTILE,
        words=HOSTILE,
        set_name=HOSTILE,
        problem=HOSTILE,
        answer=HOSTILE,
    )
    browser.open(write_report(tmp_path / "hostile.html", {"base": [sample], "sft": [sample]}, [HOSTILE]))
    browser.wait(READY)
    browser.choose("#beside", "1")
    browser.wait("document.querySelectorAll('#panes .pane').length === 2")
    browser.type("#search", "onerror")
    browser.wait("document.querySelector('#panes mark')")
    time.sleep(0.3)
    assert browser.run("return document.title") == "Run test"
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert "onerror" in browser.texts("#panes .text")[0] and HOSTILE in browser.texts(".warning")[0]
    assert browser.complaints() == []


def test_the_policy_forbids_network_and_foreign_scripts(opened: Chromium) -> None:
    """Injected markup could run no inline script and fetch nothing."""
    opened.run(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s);"
        "fetch('http://127.0.0.1:9/').catch(() => { document.documentElement.dataset.refused = '1'; });"
    )
    opened.wait("document.documentElement.dataset.refused")
    assert opened.run("return document.title") == "Run test"
    assert any("Content Security Policy" in message for message in opened.complaints())
