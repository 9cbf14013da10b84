"""Traces for the viewer in a compact form: an index in columns, and gzipped chunks of traces that open on demand.

The text of models is untrusted. It reaches the page only as base64 and as JSON without any `<`, and the viewer puts it
into the page as text.
"""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from markupsafe import Markup

from tasks.shared.reporting.samples import Sample

CHUNK = 100  # traces in one chunk
WORDS, CODE, OUTPUT, UNRUN = 0, 1, 2, 3  # kinds of segments; OUTPUT is masked out of the loss
RIGHT, OUTAGE, TRUNCATED, CODE_ERROR, HAS_CODE = 1, 2, 4, 8, 16  # flags of a trace


def json_in_html(value: Any) -> Markup:
    """Return JSON that is safe in a <script type="application/json"> element, whatever strings it holds."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def select(
    evaluations: Mapping[str, Sequence[Sample]], most_traces: int, most_tokens: int
) -> dict[str, list[Sample]]:
    """Choose the first samples of every problem: as many as both bounds allow, at least one, alike for all checkpoints.

    A token takes about 5 bytes of the page.
    """
    by_number: dict[int, list[Sample]] = {}
    for samples in evaluations.values():
        for sample in samples:
            by_number.setdefault(sample.sample, []).append(sample)
    chosen, traces, tokens = set[int](), 0, 0
    for number in sorted(by_number):
        traces += len(by_number[number])
        tokens += sum(sample.num_tokens for sample in by_number[number])
        if chosen and (traces > most_traces or tokens > most_tokens):
            break
        chosen.add(number)
    return {name: [s for s in samples if s.sample in chosen] for name, samples in evaluations.items()}


def trace_index(evaluations: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Return a row for each trace, in columns, with the names they refer to. Order: checkpoint, then as given."""
    samples = [(number, sample) for number, group in enumerate(evaluations.values()) for sample in group]
    problems = _numbered([(s.set, s.problem_id) for _, s in samples])
    texts = {(s.set, s.problem_id): (s.problem, s.answer, s.family) for _, s in samples}
    reasons = _numbered([s.reason for _, s in samples])
    return {
        "checkpoints": list(evaluations),
        "problems": [[*key, *texts[key]] for key in problems],
        "reasons": list(reasons),
        "checkpoint": [number for number, _ in samples],
        "problem": [problems[(s.set, s.problem_id)] for _, s in samples],
        "sample": [s.sample for _, s in samples],
        "flags": [flags(s) for _, s in samples],
        "reason": [reasons[s.reason] for _, s in samples],
        "tokens": [s.num_tokens for _, s in samples],
        "calls": [len(s.calls) for _, s in samples],
        "predicted": [(s.predicted or "")[:80] for _, s in samples],
        "chunk": CHUNK,
    }


def trace_chunks(evaluations: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Return the traces in the index's order, `CHUNK` at a time: gzip of JSON, as base64."""
    traces = [trace(sample) for group in evaluations.values() for sample in group]
    chunks = []
    for start in range(0, len(traces), CHUNK):
        content = json.dumps(traces[start : start + CHUNK], separators=(",", ":"))
        chunks.append(base64.b64encode(gzip.compress(content.encode(), compresslevel=6, mtime=0)).decode())
    return chunks


def trace(sample: Sample) -> dict[str, Any]:
    """Return text, segments, lengths of tokens, log-probs in hundredths, and calls. Positions are JavaScript's."""
    # JavaScript counts a character beyond U+FFFF as two units
    units = [0, *accumulate(1 + (ord(char) > 0xFFFF) for char in sample.text)]
    # a written trace has no tokens
    ends = [units[end] for end in sample.token_ends] if sample.logprobs else []
    drawn = zip(sample.logprobs, sample.sampled, strict=True)
    return {
        "text": sample.text,
        "segments": [[units[start], units[end], kind, call] for start, end, kind, call in segments(sample)],
        "lengths": [end - start for start, end in pairwise((0, *ends))],
        "logprobs": [round(100 * logprob) if is_sampled else None for logprob, is_sampled in drawn],
        "calls": [[call.status, round(call.seconds, 3)] for call in sample.calls],
    }


def flags(sample: Sample) -> int:
    """Return the properties that the viewer filters by, as bits."""
    return (
        RIGHT * sample.correct
        | OUTAGE * sample.outage
        | TRUNCATED * (sample.finish.value == "length")
        | CODE_ERROR * any(not call.ran for call in sample.calls)
        | HAS_CODE * bool(sample.calls)
    )


def segments(sample: Sample) -> list[list[int]]:
    """Return [start, end, kind, call] in characters, in order, covering the text. `call` is -1 for words.

    The forms of the dialect find programs; the program that a call ran is the last one of its turn. Output is the text
    that the loss mask leaves out.
    """
    cuts: list[list[int]] = []
    position = 0
    shown = [*sample.feedback_spans, (len(sample.text), len(sample.text))]
    turns = zip(sample.blocks_by_turn(), shown, strict=True)
    for number, (blocks, (turn_end, feedback_end)) in enumerate(turns):
        executed = number < len(sample.calls) and sample.calls[number].executed
        for block in blocks:
            ran = executed and block is blocks[-1]
            cuts.append([position, block.first, WORDS, -1])
            cuts.append([block.first, block.last, CODE if ran else UNRUN, number if ran else -1])
            position = block.last
        cuts += [[position, turn_end, WORDS, -1], [turn_end, feedback_end, OUTPUT, number]]
        position = feedback_end
    return [cut for cut in cuts if cut[0] < cut[1]]


def _numbered(keys: Sequence[Any]) -> dict[Any, int]:
    return {key: number for number, key in enumerate(dict.fromkeys(keys))}
