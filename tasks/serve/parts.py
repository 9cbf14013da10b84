"""A response while it grows, in parts for people: the model's words, a program that begins, what it printed, the end.

Ids come in as the loop appends them. The text of all parts is that of the trajectory; API stop strings end it early.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.shared.traces.trajectory import CodeCall, Trajectory

UNFINISHED = "\ufffd"  # what a character is decoded to of which tokens are missing


@dataclass(frozen=True, slots=True)
class Words:
    """What the model said."""

    text: str


@dataclass(frozen=True, slots=True)
class Output:
    """What was appended after a block, as the model reads it, and the call with what was observed."""

    text: str
    call: CodeCall


@dataclass(frozen=True, slots=True)
class Runs:
    """A block was handed to the interpreter."""

    code: str


Part = Words | Output | Runs


@dataclass(frozen=True, slots=True)
class Grown:
    """What a response has more than before; the last has the trajectory."""

    ids: tuple[int, ...] = ()
    calls: tuple[CodeCall, ...] = ()  # their spans are places among all ids
    running: str | None = None
    trajectory: Trajectory | None = None


class TextStream:
    """Text of ids that arrive one by one; a character that is not whole waits for the ids that complete it."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._read = 0  # ids from `start` are decoded, up to `read` they were given out

    def push(self, ids: Iterable[int]) -> str:
        """The text that these ids add."""
        self._ids += ids
        before = self._decode(self._ids[self._start : self._read])
        now = self._decode(self._ids[self._start :])
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return now[len(before) :]


@dataclass(slots=True)
class Parts:
    """The parts of one response, and what was said of it so far."""

    decode: Callable[[Sequence[int]], str]
    stops: tuple[str, ...] = ()  # looked for in the model's words; what follows the first is not said
    text: str = ""  # of all parts
    spans: list[tuple[int, int]] = field(default_factory=list)  # outputs in `text`
    calls: list[CodeCall] = field(default_factory=list)
    num_ids: int = 0
    num_shown: int = 0  # ids of outputs
    stopped: bool = False  # at a stop string
    _stream: TextStream = field(init=False)
    _held: str = ""  # words that may begin a stop string
    _announced: bool = False

    def __post_init__(self) -> None:
        self._stream = TextStream(self.decode)

    def take(self, grown: Grown) -> Iterator[Part]:
        """The parts that are new."""
        if self.stopped:
            return
        if grown.trajectory is not None and not self.num_ids and not self.stops:
            yield from self._whole(grown.trajectory, len(grown.ids))
            return
        base = self.num_ids
        place = 0
        for call in grown.calls:
            start, end = call.turn_end - base, call.feedback_end - base
            yield from self._say(self._stream.push(grown.ids[place:start]))
            yield from self._say("", last=True)
            if self.stopped:
                return
            self._announced = False
            shown = self._stream.push(grown.ids[start:end])
            self.num_shown += end - start
            self.calls.append(call)
            self.spans.append((len(self.text), len(self.text) + len(shown)))
            self.text += shown
            yield Output(shown, call)
            place = end
        yield from self._say(self._stream.push(grown.ids[place:]))
        self.num_ids = base + len(grown.ids)
        if grown.running is not None and not self._announced and not self.stopped:
            yield from self._say("", last=True)
            self._announced = True
            yield Runs(grown.running)
        if grown.trajectory is not None and not self.stopped:
            yield from self._say("", last=True)
            rest = grown.trajectory.text.removeprefix(self.text)
            if not self.stopped and rest and grown.trajectory.text.startswith(self.text):
                yield from self._say(rest, last=True)

    def _whole(self, trajectory: Trajectory, num_ids: int) -> Iterator[Part]:
        """The parts of a response that nobody followed: its text is there, and nothing is decoded again."""
        place = 0
        for call, (start, end) in zip(trajectory.calls, trajectory.shown, strict=True):
            yield from self._say(trajectory.text[place:start], last=True)
            self.num_shown += call.feedback_end - call.turn_end
            self.calls.append(call)
            self.spans.append((start, end))
            self.text += trajectory.text[start:end]
            yield Output(trajectory.text[start:end], call)
            place = end
        yield from self._say(trajectory.text[place:], last=True)
        self.num_ids = num_ids

    def _say(self, text: str, last: bool = False) -> Iterator[Part]:
        """Words, but for their end where it may begin a stop string; `last`: it does not."""
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
    """How many characters at the end of `text` begin `stop`."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)
