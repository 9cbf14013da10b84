"""A growing response, split into parts to show: the model's words, the start of a program, and its output.

The loop appends ids and the parts follow. Together they are the trajectory's text, unless a stop string ends it early.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.shared.grading import last_box
from tasks.shared.traces.trajectory import CodeCall, Trajectory

UNFINISHED = "\ufffd"  # a character decodes to this while some of its tokens are missing


@dataclass(frozen=True, slots=True)
class Words:
    """Text that the model wrote."""

    text: str


@dataclass(frozen=True, slots=True)
class Output:
    """The text appended after a block, as the model reads it, and the recorded call."""

    text: str
    call: CodeCall


@dataclass(frozen=True, slots=True)
class Runs:
    """A block was handed to the interpreter."""

    code: str


Part = Words | Output | Runs


@dataclass(frozen=True, slots=True)
class Grown:
    """What a response gained since the last report. The last report has the trajectory."""

    ids: tuple[int, ...] = ()
    calls: tuple[CodeCall, ...] = ()  # their spans are positions among all ids
    running: str | None = None
    trajectory: Trajectory | None = None


@dataclass(slots=True)
class Parts:
    """Splits one response into parts, and keeps what was returned so far."""

    decode: Callable[[Sequence[int]], str]
    stops: tuple[str, ...] = ()  # searched in the model's words; the text ends before the first one
    text: str = ""  # of all parts
    spans: list[tuple[int, int]] = field(default_factory=list)  # of outputs in `text`
    calls: list[CodeCall] = field(default_factory=list)
    num_ids: int = 0
    num_shown: int = 0  # ids of outputs
    stopped: bool = False  # at a stop string
    _held: str = ""  # words that may begin a stop string
    _announced: bool = False
    _ids: list[int] = field(default_factory=list)
    _start: int = 0  # where decoding begins
    _read: int = 0  # ids whose text was returned

    def take(self, grown: Grown) -> Iterator[Part]:
        """Yield the new parts."""
        if self.stopped:
            return
        base, place = self.num_ids, 0
        self.num_ids += len(grown.ids)
        if grown.trajectory is not None and not base and not self.stops:
            yield from self._whole(grown.trajectory)
            return
        for call in grown.calls:
            start, end = call.turn_end - base, call.feedback_end - base
            yield from self._words(self._decoded(grown.ids[place:start]), last=True)
            if self.stopped:
                return
            self._announced = False
            shown = self._decoded(grown.ids[start:end])
            self.num_shown += end - start
            self.calls.append(call)
            self.spans.append((len(self.text), len(self.text) + len(shown)))
            self.text += shown
            yield Output(shown, call)
            place = end
        yield from self._words(self._decoded(grown.ids[place:]))
        if grown.running is not None and not self._announced and not self.stopped:
            yield from self._words("", last=True)
            self._announced = True
            yield Runs(grown.running)
        if grown.trajectory is not None and not self.stopped:
            yield from self._words("", last=True)
            if grown.trajectory.text.startswith(self.text):
                yield from self._words(grown.trajectory.text.removeprefix(self.text), last=True)

    def _whole(self, trajectory: Trajectory) -> Iterator[Part]:
        """Yield the parts of a response that nobody followed. Its text is known, so nothing is decoded again."""
        place = 0
        for call, (start, end) in zip(trajectory.calls, trajectory.shown, strict=True):
            yield from self._words(trajectory.text[place:start], last=True)
            self.num_shown += call.feedback_end - call.turn_end
            self.calls.append(call)
            self.spans.append((start, end))
            self.text += trajectory.text[start:end]
            yield Output(trajectory.text[start:end], call)
            place = end
        yield from self._words(trajectory.text[place:], last=True)

    def _decoded(self, ids: Iterable[int]) -> str:
        """Return the text that these ids add. An incomplete character waits for the ids that complete it."""
        self._ids += ids
        before = self.decode(self._ids[self._start : self._read])
        now = self.decode(self._ids[self._start :])
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _words(self, text: str, last: bool = False) -> Iterator[Part]:
        """Yield words. Unless they are the `last` of a turn, hold back an end that may begin a stop string."""
        text = self._held + text
        self._held = ""
        found = min((place for stop in self.stops if (place := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.stopped = True
            text = text[:found]
        elif not last:
            keep = max((_overlap(text, stop) for stop in self.stops), default=0)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        if text:
            self.text += text
            yield Words(text)


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of `text` that begin `stop`."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)


def answer_of(trajectory: Trajectory) -> str:
    """Return the content of the last complete box in the model's own words, or "" without one."""
    return last_box(trajectory.own_words) or ""
