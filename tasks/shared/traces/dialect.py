"""How a trace is written: prompt, code blocks, interpreter output, answer, all decided here and nowhere else.

Two dialects run code: `retool` (tags) and `torl` (Markdown fences); `text` runs none (the paper's text-only baseline).
The stop string ends the model's turn, `find_call` reads the block that ends there, `feedback` is what is appended.
Code runs exactly as written. `split` cuts a written trace at the very places where a rollout appends ids, so SFT
tokenises segment by segment what RL will see. Sources: ReTool (arXiv 2504.11536), ToRL (arXiv 2503.23383).
"""

import re
from dataclasses import dataclass

RETOOL_INSTRUCTION = """\
Solve the problem below step by step. While you reason you may write Python that runs in an external sandbox: put a \
complete script, with its imports, between <code> and </code> as a ```python block, and print what you want to see. \
Its output comes back between <interpreter> and </interpreter>. Close with <answer>\\boxed{{...}}</answer>.

{problem}"""

TORL_INSTRUCTION = """\
Reason step by step and use Python where it helps: write a complete script in a ```python block and print what you \
want to see; the output is shown to you in an ```output block. Put the final answer in \\boxed{{}}.

{problem}"""

TEXT_INSTRUCTION = """\
Reason step by step, without code. Close with <answer>\\boxed{{...}}</answer>.

{problem}"""


class TraceFormatError(ValueError):
    """A written trace does not follow its dialect; the message says which rule it breaks."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a written trace: the assistant's own words, or interpreter output."""

    text: str
    is_feedback: bool  # True: interpreter output, masked out of the loss
    code: str | None = None  # the block that this own-words segment ends with, if it ends with one
    observation: str | None = None  # for feedback: what the interpreter is said to have printed


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to write traces."""

    name: str
    instruction: str  # with {problem}
    stop: str | None  # the text that ends a turn with a code block
    block: re.Pattern[str] | None  # a code block at the end of a turn; group 1 is the code
    feedback_open: str
    feedback_close: str
    call_template: str  # how a block is written, with {code}; "" where none is
    answer_template: str  # how the answer is written, with {answer}
    answer_block: re.Pattern[str]  # the answer at the end of a trace; group 1 is the content of the box

    def prompt(self, problem: str, instructed: bool) -> str:
        """The user message: the problem under the dialect's instruction, or bare."""
        return self.instruction.format(problem=problem) if instructed else problem

    def find_call(self, turn: str) -> str | None:
        """The code that `turn` (the model's text since the last feedback) ends with, or None if it holds none.

        Tokens can carry characters beyond the stop string; what follows it is ignored.
        """
        if self.stop is None or self.block is None or self.stop not in turn:
            return None
        match = self.block.search(turn[: turn.index(self.stop) + len(self.stop)])
        return match.group(1) if match else None

    def write_call(self, code: str) -> str:
        """A block that runs `code`, as `find_call` reads it. Raises ValueError for a dialect that runs none."""
        if not self.call_template:
            raise ValueError(
                f"dialect '{self.name}' runs no code; write its traces with synthesize.code_share = 0"
            )
        return self.call_template.format(code=code)

    def write_answer(self, answer: str) -> str:
        """The part of a trace that gives its answer, as `closes_with_answer` reads it."""
        return self.answer_template.format(answer=answer)

    def closes_with_answer(self, trace: str) -> bool:
        """Whether a trace ends in one answer, written as this dialect writes it, and gives no other."""
        return trace.count("\\boxed") == 1 and self.answer_block.search(trace) is not None

    def feedback(self, observation: str, remaining_calls: int | None = None) -> str:
        """The text appended after a block: its output, and the calls that are left if they are announced."""
        notice = "" if remaining_calls is None else f"\nremaining calls: {remaining_calls}"
        return f"{self.feedback_open}{observation}{notice}{self.feedback_close}"

    def split(self, trace: str) -> list[Segment]:
        """Cut a written trace into own words and feedback, in order; joined texts give `trace` again.

        Raises TraceFormatError: unbalanced or misplaced tags, a block without output, output without a block.
        """
        if self.stop is None or self.block is None:
            self._refuse_stray_tags(trace)
            return [Segment(trace, is_feedback=False)]
        segments, rest = [], trace
        while self.stop in rest:
            end = rest.index(self.stop) + len(self.stop)
            turn, rest = rest[:end], rest[end:]
            code = self.find_call(turn)
            if code is None:
                raise TraceFormatError(f"'{self.stop}' without a whole code block before it")
            self._refuse_stray_tags(turn[: turn.rindex(code)] if code else turn)
            if not rest.startswith(self.feedback_open):
                raise TraceFormatError("a code block without interpreter output right after it")
            close = rest.find(self.feedback_close, len(self.feedback_open))
            if close < 0:
                raise TraceFormatError("interpreter output that is not closed")
            observation = rest[len(self.feedback_open) : close]
            end = close + len(self.feedback_close)
            segments.append(Segment(turn, is_feedback=False, code=code))
            segments.append(Segment(rest[:end], is_feedback=True, observation=observation))
            rest = rest[end:]
        self._refuse_stray_tags(rest, last=True)
        segments.append(Segment(rest, is_feedback=False))
        return segments

    def _refuse_stray_tags(self, text: str, last: bool = False) -> None:
        opening = {
            "retool": ("<interpreter>", "</interpreter>", "</code>"),
            "torl": ("```output",),
            "text": (),
        }
        stray = list(opening[self.name])
        if last or self.name == "text":
            stray += ["<code>"] if self.name != "torl" else ["```python"]
        for tag in stray:
            if tag in text:
                raise TraceFormatError(f"'{tag}' where it cannot stand")
        if self.name != "torl" and last and text.count("<answer>") != text.count("</answer>"):
            raise TraceFormatError("<answer> that is not closed")


ANSWER_TAGS = re.compile(r"<answer>\n\\boxed\{([^\n]+)\}\n</answer>\s*$")

DIALECTS = {
    "retool": Dialect(
        name="retool",
        instruction=RETOOL_INSTRUCTION,
        stop="</code>",
        block=re.compile(r"<code>\n```python\n((?:(?!<code>).)*?)\n?```\n</code>$", re.DOTALL),
        feedback_open="\n<interpreter>\n",
        feedback_close="\n</interpreter>\n",
        call_template="<code>\n```python\n{code}\n```\n</code>",
        answer_template="<answer>\n\\boxed{{{answer}}}\n</answer>",
        answer_block=ANSWER_TAGS,
    ),
    "torl": Dialect(
        name="torl",
        instruction=TORL_INSTRUCTION,
        stop="```output",
        block=re.compile(r"```python\n((?:(?!```).)*?)\n?```\n+```output$", re.DOTALL),
        feedback_open="\n",
        feedback_close="\n```\n",
        call_template="```python\n{code}\n```\n```output",
        answer_template="\\boxed{{{answer}}}",
        answer_block=re.compile(r"\\boxed\{([^\n]+)\}\.?\s*$"),
    ),
    "text": Dialect(
        name="text",
        instruction=TEXT_INSTRUCTION,
        stop=None,
        block=None,
        feedback_open="",
        feedback_close="",
        call_template="",
        answer_template="<answer>\n\\boxed{{{answer}}}\n</answer>",
        answer_block=ANSWER_TAGS,
    ),
}
