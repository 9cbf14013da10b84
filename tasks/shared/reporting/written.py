"""Finds programs in a model's text, by the calls of a sample and the forms of its dialect."""

from collections.abc import Iterator

from tasks.shared.reporting.samples import Sample
from tasks.shared.traces.call_forms import Block
from tasks.shared.traces.dialect import DIALECTS


def blocks_by_turn(sample: Sample) -> Iterator[list[Block]]:
    """The blocks of each turn, executed or not, by their places in the sample's text; the last turn ran none."""
    dialect, place = DIALECTS[sample.dialect], 0
    ends = [*(end for _, end in sample.feedback_spans), len(sample.text)]
    for turn, end in zip(sample.turns, ends, strict=True):
        yield [block.moved(place) for block in dialect.blocks(turn)]
        place = end


def words_between(sample: Sample) -> list[str]:
    """The words before each call and those after the last, without the block that ended the turn."""
    *calling, last = sample.turns
    blocks = map(DIALECTS[sample.dialect].read, calling)
    before = [turn[: block.start] if block else turn for turn, block in zip(calling, blocks, strict=True)]
    return [*before, last]
