"""Reads a finished response: its text, spans of output, own words and blocks."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.shared.traces.dialect import Dialect
from tasks.shared.traces.own_words import own_words
from tasks.shared.traces.trajectory import FinishReason, Trajectory, TrajectoryBuilder, turns_between


def finished(
    builder: TrajectoryBuilder, reason: FinishReason, decode: Callable[[Sequence[int]], str], dialect: Dialect
) -> Trajectory:
    """The frozen trajectory. Everything except ids, mask, log-probs and calls is derived from its text."""
    ids = builder.response_ids
    text = decode(ids[:-1] if reason is FinishReason.EOS else ids)

    def place(token: int) -> int:
        return len(decode(ids[:token]))

    shown = tuple((place(call.turn_end), place(call.feedback_end)) for call in builder.calls)
    turns, is_cut = turns_between(text, shown), reason is FinishReason.LENGTH
    return replace(
        builder.finish(reason, text, own_words(turns)),
        shown=shown,
        unrecognised=sum(map(dialect.unrecognised, turns[:-1])) + dialect.unrecognised(turns[-1], is_cut),
        self_written=sum(map(dialect.self_written, turns)),
        wrote_code=any(block.is_whole for turn in turns for block in dialect.blocks(turn)),
    )
