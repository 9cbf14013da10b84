"""The write-ahead record of an asynchronous round: every event of a draw is on disk before it takes effect.

An append-only file of JSON lines, on the disk (fsync) when `write` returns. A draw, a problem with all its samples, is
in flight until its group is whole. Then it waits until a step takes it or it is dropped. It is never in two of these
states. A round killed at any moment resumes from this record: steps after its last saved state train on the same
groups again, whole groups wait as before, and draws in flight are requested again.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JOURNAL_FILE = "journal.jsonl"


@dataclass(frozen=True, slots=True)
class Drawn:
    """One draw: its problem, and the number of steps done when its samples were last requested."""

    problem_id: str
    begun: int


@dataclass(slots=True)
class Account:
    """The state of every draw; draws are numbered through all rounds."""

    drawn: dict[int, Drawn] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)  # graded and kept, taken or not
    taken: dict[int, list[int]] = field(default_factory=dict)  # by step, from 1: what it trains on, in order
    dropped: dict[int, str] = field(default_factory=dict)  # with the reason

    @property
    def open(self) -> list[int]:
        """Draws that no step has taken and that are not dropped, in their order."""
        ended = {draw for draws in self.taken.values() for draw in draws} | self.dropped.keys()
        return [draw for draw in self.drawn if draw not in ended]

    def enter(self, event: dict[str, Any]) -> None:
        """Apply one line. AssertionError for an event that cannot follow the earlier ones.

        drawn (draw, problem, begun): a problem is drawn and its samples are requested; asked (draw, begun): a draw in
        flight at a kill is requested again; whole (draw): its group is graded and on disk; taken (step, draws): the
        step, from 1, trains on these groups in this order; dropped (draw, reason): it is never trained on.
        """
        kind = event["event"]
        if kind == "taken":
            assert set(event["draws"]) <= set(self.open) & self.whole, event
            assert event["step"] not in self.taken, event
            self.taken[event["step"]] = event["draws"]
            return
        draw = event["draw"]
        assert (kind == "drawn") == (draw not in self.drawn), event
        if kind in ("drawn", "asked"):
            problem_id = event["problem"] if kind == "drawn" else self.drawn[draw].problem_id
            self.drawn[draw] = Drawn(problem_id, event["begun"])
        elif kind == "whole":
            assert draw not in self.whole, event
            self.whole.add(draw)
        else:
            assert kind == "dropped" and draw in self.open, event
            self.dropped[draw] = event["reason"]


class Journal:
    """The file and its account."""

    def __init__(self, path: Path) -> None:
        """Open it after its last line. A line cut short by a kill is removed, because nothing had followed from it."""
        self.path = path
        self.account = Account()
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            self.account.enter(json.loads(line))

    def write(self, event: str, **fields: Any) -> None:
        """Record an event of `Account.enter`; it is on disk when this returns."""
        entry = {"event": event, **fields}
        self.account.enter(entry)
        line = json.dumps(entry).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            assert os.write(descriptor, line) == len(line), "a short write to a file"
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
