"""Defines how a trace is written: prompt, code blocks, interpreter output and answer. No other module decides this.

Three dialects run code: `retool` (tags), `torl` (Markdown fences) and `hermes` (tool calls of chat models); `text` runs
none (the paper's text-only baseline).
A dialect's call form (`call_forms.py`) defines what ends a turn and which program runs; `feedback` is the text appended
after it. Code runs exactly as written. `split` cuts a written trace where a rollout appends ids, so SFT tokenises the
same segments as RL. Sources: ReTool (arXiv 2504.11536), ToRL (arXiv 2503.23383).
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tasks.shared.config import TracesConfig
from tasks.shared.traces.call_forms import Block, CallForm, FenceForm, TagForm
from tasks.shared.traces.instructions import (
    HERMES_INSTRUCTION,
    RETOOL_INSTRUCTION,
    TEXT_INSTRUCTION,
    TORL_INSTRUCTION,
)
from tasks.shared.traces.tool_form import ToolForm

EXAMPLE_CODE, EXAMPLE_OUTPUT = "print(6 * 7)", "42"
CARRIED = 32  # most characters after a stop string within the token that completes it


class TraceFormatError(ValueError):
    """A written trace does not follow its dialect; the message says which rule it breaks."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a written trace: the assistant's own words, or interpreter output."""

    text: str
    is_feedback: bool  # True: interpreter output, masked out of the loss
    block: Block | None = None  # the block at the end of an own-words segment, if any
    observation: str | None = None  # for feedback: the interpreter's output

    @property
    def code(self) -> str | None:
        """The program that this segment requests to run, if any."""
        return self.block.code if self.block and not self.block.fault else None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to write traces."""

    name: str
    instruction: str  # with {problem}, and where they are shown {libraries}, {call}, {feedback} and {answer}
    form: CallForm | None  # None: runs no code
    feedback_open: str
    feedback_close: str
    refused: tuple[str, ...]  # tags that must not occur in the words of a written trace
    answer_template: str  # how the answer is written, with {answer}
    answer_block: re.Pattern[str]  # the answer at the end of a trace; group 1 is the content of the box
    max_calls: int | None = None  # after this many calls a block without output is text, as in a rollout
    # calls and results are turns of the chat template (`chat_turns.py`), to which encoding translates a trace's marks
    speaks_tools: bool = False
    libraries: tuple[str, ...] = ()  # what programs can import besides the standard library

    @property
    def runs_code(self) -> bool:
        """Whether programs in its traces run."""
        return self.form is not None

    @property
    def stop(self) -> str | None:
        """The string that ends a turn with a block; None where none does."""
        return self.form.stop if self.form else None

    @property
    def feedback_mark(self) -> str:
        """The mark before interpreter output; "" for a dialect without output."""
        return self.feedback_open.strip() or self.stop or ""

    @property
    def marks(self) -> tuple[str, ...]:
        """The tags and fences that structure a trace."""
        pieces = [self.feedback_open, self.feedback_close, self.write_answer("")]
        lines = [line.rstrip("}") for piece in pieces for line in piece.split("\n")]
        marks = (*(self.form.marks if self.form else ()), *lines)
        return tuple(dict.fromkeys(mark for mark in marks if mark))

    @property
    def enclosing_tags(self) -> tuple[tuple[str, str], ...]:
        """The opening and closing tag around a call and around its output; none where fences stand there."""
        calls = [(self.form.opening, self.form.stop)] if isinstance(self.form, TagForm | ToolForm) else []
        outputs = (
            [(self.feedback_open.strip(), self.feedback_close.strip())] if self.feedback_open.strip() else []
        )
        return (*calls, *outputs)

    @property
    def libraries_sentence(self) -> str:
        """The sentence that names the libraries; "" where there are none."""
        *others, last = self.libraries or ("",)
        names = f"{', '.join(others)} and {last}" if others else last
        return f"Besides the standard library there are {names}." if last else ""

    def prompt(self, problem: str, instructed: bool) -> str:
        """The user message: the problem under the dialect's instruction, or bare."""
        if not instructed:
            return problem
        return self.instruction.format(
            problem=problem,
            libraries=f" {self.libraries_sentence}" if self.libraries else "",
            call=self.write_call(EXAMPLE_CODE) if self.form else "",
            feedback=self.feedback(EXAMPLE_OUTPUT).strip("\n"),
            answer=self.write_answer("..."),
        )

    def read(self, turn: str) -> Block | None:
        """The block that ends `turn` (the model's text since the last feedback), None if none does.

        It runs unless it has a fault. Tokens can carry characters beyond the stop string; what follows it is ignored.
        """
        if self.form is None:
            return None
        found = turn.find(self.form.stop)
        while found >= 0:
            end = found + len(self.form.stop)
            block = self.form.read(turn[:end])
            if block is not None:
                return block
            found = turn.find(self.form.stop, end)
        return None

    def find_call(self, turn: str) -> str | None:
        """The code that `turn` ends with, or None if it holds none."""
        block = self.read(turn)
        return None if block is None or block.fault else block.code

    def blocks(self, words: str) -> Iterator[Block]:
        """Every block in the model's words, in order: those that end a turn, and programs not requested to run."""
        if self.form is None:
            return
        place = 0
        while (block := self.read(words[place:])) is not None:
            yield from (other.moved(place) for other in self.form.unasked(words[place : place + block.start]))
            yield block.moved(place)
            place += block.end
        yield from (other.moved(place) for other in self.form.unasked(words[place:]))

    def write_call(self, code: str) -> str:
        """A block that runs `code`, as `find_call` reads it. Raises ValueError for a dialect that runs none."""
        if self.form is None:
            raise ValueError(
                f"dialect '{self.name}' runs no code; write its traces with synthesize.code_share = 0"
            )
        return self.form.write(code)

    def write_answer(self, answer: str) -> str:
        """The text that states the answer, in the form that `closes_with_answer` reads."""
        return self.answer_template.format(answer=answer)

    def closes_with_answer(self, trace: str) -> bool:
        """Whether a trace ends with an answer in this dialect's form and contains no other answer."""
        words = trace.rpartition("</think>")[2]  # an answer within the thoughts does not count
        return words.count("\\boxed") == 1 and self.answer_block.search(words) is not None

    def count_answers(self, words: str) -> int:
        """Count whole answers in a model's own words: between the tags, or boxes; 0 where a tag has no counterpart."""
        opening, closing = self._answer_ends
        if opening == closing:
            return words.count("\\boxed{")
        whole = len(re.findall(f"{re.escape(opening)}.*?{re.escape(closing)}", words, re.DOTALL))
        return whole if words.count(opening) == words.count(closing) == whole else 0

    @property
    def _answer_ends(self) -> tuple[str, str]:
        """The first and the last line of an answer: its tags, or the box twice."""
        lines = self.write_answer("").split("\n")
        return lines[0], lines[-1]

    def notice(self, block: Block) -> str:
        """The notice that a model sees in place of output after an incomplete block."""
        assert self.form is not None
        return f"This block was not run: {block.fault}. {self.form.usage}"

    def feedback(self, observation: str, remaining_calls: int | None = None, carried: str = "") -> str:
        """The text appended after a block: its output and, if announced, the number of calls left.

        `carried`: the text after the stop string within the model's last token. An output line equal to the closing
        mark is indented by a blank, so that it cannot end the output early.
        """
        closing = re.escape(self.feedback_close.strip("\n"))
        observation = re.sub(rf"(?m)^(?={closing}$)", " ", observation)
        notice = "" if remaining_calls is None else f"\nremaining calls: {remaining_calls}"
        # never write a bare line break twice: the model's own could not be told from the output's
        opening = "" if self.feedback_open == "\n" and carried.endswith("\n") else self.feedback_open
        return f"{opening}{observation}{notice}{self.feedback_close}"

    def unrecognised(self, turn: str, is_cut: bool = False) -> int:
        """Count the malformed blocks of a turn; with `is_cut`, without the block in which the tokens ran out."""
        faulty = [block for block in self.blocks(turn) if block.fault]
        if is_cut and faulty and self.form is not None:
            end, stop = faulty[-1].end, self.form.stop
            ended = turn[:end].endswith(stop)
            faulty = faulty[: len(faulty) - (not ended and stop.startswith(turn[end:].strip()))]
        return len(faulty)

    def content_of(self, feedback: str) -> str:
        """The text between the tags of a feedback."""
        return feedback.removeprefix(self.feedback_open).removesuffix(self.feedback_close)

    def self_written(self, turn: str) -> int:
        """Count the output marks that the model wrote itself in a turn, outside of programs."""
        if not self.feedback_mark:
            return 0
        call = self.read(turn)
        spans = [(block.first, block.last) for block in self.blocks(turn) if block != call]
        spans += [(call.start, call.end)] if call else []
        words = "".join(_outside(turn, sorted(spans)))
        return words.count(self.feedback_mark)

    def outputs(self, text: str) -> Iterator[tuple[int, int]]:
        """The spans of output in the text of a rollout."""
        place = 0
        while (block := self.read(text[place:])) is not None:
            output = self._output_after(text, place + block.end)
            if output is None:
                return
            yield output
            place = output[1]

    def split(self, trace: str) -> list[Segment]:
        """Cut a written trace into own words and feedback, in order; the joined texts equal `trace`.

        Raises TraceFormatError: unbalanced or misplaced tags, a block without output, output without a block.
        """
        segments, rest = list[Segment](), trace
        while (block := self.read(rest)) is not None:
            output = self._output_after(rest, block.end)
            if output is None:
                if len(segments) // 2 == self.max_calls:
                    break
                fault = f"'{self.stop}' without a whole code block before it: {block.fault}"
                raise TraceFormatError(
                    fault if block.fault else "a code block without interpreter output right after it"
                )
            start, end = output
            self._refuse_stray_tags(rest[: block.first], last=False)
            observation = self.content_of(rest[start:end])
            segments.append(Segment(rest[:start], is_feedback=False, block=block))
            segments.append(Segment(rest[start:end], is_feedback=True, observation=observation))
            rest = rest[end:]
        self._refuse_stray_tags(rest, last=len(segments) // 2 != self.max_calls)
        segments.append(Segment(rest, is_feedback=False))
        return segments

    def is_followed_by(self, trace: str) -> bool:
        """Whether a written trace follows the dialect: complete blocks, each with output, and one answer at the end."""
        try:
            segments = self.split(trace)
        except TraceFormatError:
            return False
        whole = all(segment.block is None or not segment.block.fault for segment in segments)
        return whole and self.closes_with_answer(segments[-1].text)

    def _output_after(self, text: str, place: int) -> tuple[int, int] | None:
        """The span of the feedback directly after a stop string and the rest of its token; None without one."""
        opening = re.escape(self.feedback_open)
        found = re.compile(rf"[^\n]{{0,{CARRIED}}}?\s*?({opening})").match(text, place)
        if found is None:
            return None
        close = text.find(self.feedback_close, found.end())
        if close < 0:
            raise TraceFormatError("interpreter output that is not closed")
        return found.start(1), close + len(self.feedback_close)

    def _refuse_stray_tags(self, text: str, last: bool) -> None:
        """Raise TraceFormatError for output tags in a turn's words, and in the last turn for block tags too."""
        for tag in self.refused:
            place = text.find(tag)
            if place >= 0 and self.stop and self.stop in text[:place][-CARRIED - len(self.stop) :]:
                raise TraceFormatError(f"'{self.stop}' without a whole code block before it")
            if place >= 0:
                raise TraceFormatError(f"'{tag}' in the wrong place")
        if not last:
            return
        if self.form is not None and (tag := self.form.stray(text)):
            raise TraceFormatError(f"'{tag}' in the wrong place")
        opening, closing = self._answer_ends
        if opening != closing and text.count(opening) != text.count(closing):
            raise TraceFormatError(f"{opening} that is not closed")


def _outside(text: str, spans: list[tuple[int, int]]) -> Iterator[str]:
    """The pieces of `text` outside of ascending spans."""
    place = 0
    for start, end in spans:
        yield text[place:start]
        place = max(place, end)
    yield text[place:]


ANSWER_BOX = re.compile(r"\\boxed\{([^\n]+)\}\.?\s*$")
ANSWER_TAGS = re.compile(r"<answer>\n\\boxed\{([^\n]+)\}\n</answer>\s*$")

DIALECTS = {
    "retool": Dialect(
        name="retool",
        instruction=RETOOL_INSTRUCTION,
        form=TagForm(
            opening="<code>",
            stop="</code>",
            usage="Write <code>, ```python, the program, ``` and </code>, each on lines of its own.",
        ),
        feedback_open="\n<interpreter>\n",
        feedback_close="\n</interpreter>\n",
        refused=("<interpreter>", "</interpreter>"),
        answer_template="<answer>\n\\boxed{{{answer}}}\n</answer>",
        answer_block=ANSWER_TAGS,
    ),
    "torl": Dialect(
        name="torl",
        instruction=TORL_INSTRUCTION,
        form=FenceForm(
            stop="```output",
            usage="Write ```python, the program, ``` and ```output, each on lines of its own.",
        ),
        feedback_open="\n",
        feedback_close="\n```\n",
        refused=("```output",),
        answer_template="\\boxed{{{answer}}}",
        answer_block=ANSWER_BOX,
    ),
    "hermes": Dialect(
        name="hermes",
        instruction=HERMES_INSTRUCTION,
        form=ToolForm(),
        feedback_open="\n<tool_response>\n",
        feedback_close="\n</tool_response>\n",
        refused=("<tool_response>", "</tool_response>"),
        answer_template="\\boxed{{{answer}}}",
        answer_block=ANSWER_BOX,
        speaks_tools=True,
    ),
    "text": Dialect(
        name="text",
        instruction=TEXT_INSTRUCTION,
        form=None,
        feedback_open="",
        feedback_close="",
        refused=("<code>",),
        answer_template="<answer>\n\\boxed{{{answer}}}\n</answer>",
        answer_block=ANSWER_TAGS,
    ),
}


def dialect_of(traces: TracesConfig, preload: Iterable[str] = ()) -> Dialect:
    """A recipe's dialect with its call cap; for prompts also with the libraries of `sandbox.preload`."""
    libraries = tuple(name for name in preload if name.partition(".")[0] not in sys.stdlib_module_names)
    return replace(DIALECTS[traces.dialect], max_calls=traces.max_calls, libraries=libraries)
