"""The embedded traces: segments, JavaScript offsets, text that cannot leave its element."""

import base64
import gzip
import json

from tasks.report.embedding import (
    CODE,
    CODE_ERROR,
    HAS_CODE,
    OUTPUT,
    RIGHT,
    UNRUN,
    WORDS,
    flags,
    json_in_html,
    segments,
    select,
    trace,
    trace_chunks,
    trace_index,
)
from tests.unit.reporting.making import make_evaluation, make_sample

BLOCKS = [("print(1)", "ok", "1"), ("print(1)", "error", "Boom"), ("print(2)", "ok", "2")]


def test_segments_cover_the_text_and_match_mask_and_code() -> None:
    """Ordered and without gaps. Output segments are the masked tokens, code segments the calls' code."""
    sample = make_sample(BLOCKS)
    cuts = segments(sample)
    assert [cut[0] for cut in cuts[1:]] == [cut[1] for cut in cuts[:-1]]
    assert (cuts[0][0], cuts[-1][1]) == (0, len(sample.text))
    masked = {place for start, end, kind, _ in cuts if kind == OUTPUT for place in range(start, end)}
    assert masked == {place for place, drawn in enumerate(sample.sampled) if not drawn}
    code = [(sample.text[start:end], call) for start, end, kind, call in cuts if kind == CODE]
    assert code == [("print(1)", 0), ("print(1)", 1), ("print(2)", 2)]


def test_unexecuted_code_is_marked() -> None:
    """After the call cap, or cut off by the budget."""
    sample = make_sample([], words="so\n<code>\n```python\nprint(5)\n```\n</code> ")
    kinds = {sample.text[start:end]: kind for start, end, kind, _ in segments(sample)}
    assert kinds["print(5)"] == UNRUN
    assert {kind for text, kind in kinds.items() if text != "print(5)"} == {WORDS}


def test_positions_are_those_of_javascript() -> None:
    """A character beyond U+FFFF is two units there."""
    sample = make_sample([("print('\U0001f600')", "ok", "\U0001f600")])
    packed = trace(sample)
    units = sample.text.encode("utf-16-le")
    assert sum(packed["lengths"]) == packed["segments"][-1][1] == len(units) // 2
    start, end, *_ = next(cut for cut in packed["segments"] if cut[2] == CODE)
    assert units[2 * start : 2 * end].decode("utf-16-le") == sample.calls[0].code


def test_log_probs_are_null_on_masked_tokens() -> None:
    """Other tokens have hundredths."""
    sample = make_sample(BLOCKS[:1])
    for logprob, drawn, value in zip(trace(sample)["logprobs"], sample.sampled, sample.logprobs, strict=True):
        assert (logprob is not None) == drawn
        assert logprob is None or logprob == round(100 * value)


def test_flags_for_filters() -> None:
    """The flags that the viewer's filters read."""
    assert flags(make_sample(BLOCKS)) == RIGHT | CODE_ERROR | HAS_CODE
    assert flags(make_sample([], predicted="1")) == 0


def test_no_string_leaves_a_json_element() -> None:
    """`</script>` and comment openings are escaped, and the value comes back unchanged."""
    hostile = {"a": ["</script><script>alert(1)</script>", "<!--", "\u2028", "&lt;", "\ud800"]}
    text = str(json_in_html(hostile))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == hostile


def test_chunks_hold_the_traces_in_the_order_of_the_index() -> None:
    """Row n of the index is trace n of the chunks, for every checkpoint."""
    evaluations = {"base": make_evaluation(1, 20, 4, 0.2), "sft": make_evaluation(2, 20, 4, 0.6)}
    index, chunks = trace_index(evaluations), trace_chunks(evaluations)
    traces = [t for chunk in chunks for t in json.loads(gzip.decompress(base64.b64decode(chunk)))]
    flat = [sample for group in evaluations.values() for sample in group]
    assert [t["text"] for t in traces] == [sample.text for sample in flat]
    assert [index["problems"][p][1] for p in index["problem"]] == [sample.problem_id for sample in flat]
    assert [index["checkpoints"][c] for c in index["checkpoint"]] == ["base"] * 80 + ["sft"] * 80


def test_too_many_traces_are_thinned_evenly() -> None:
    """Every problem keeps the same first samples under every checkpoint."""
    evaluations = {"base": make_evaluation(1, 10, 8, 0.2), "sft": make_evaluation(2, 10, 8, 0.6)}
    chosen = select(evaluations, 70, 10**9)
    assert {name: len(samples) for name, samples in chosen.items()} == {"base": 30, "sft": 30}
    assert {sample.sample for samples in chosen.values() for sample in samples} == {0, 1, 2}
    assert select(evaluations, 160, 10**9) == evaluations
    tokens = sum(s.num_tokens for samples in evaluations.values() for s in samples if s.sample < 2)
    assert len(select(evaluations, 160, tokens)["sft"]) == 20
    assert len(select(evaluations, 1, 1)["sft"]) == 10  # at least one sample
