"""A trace as selection reads it: the teacher's words and programs, without interpreter output."""

from dataclasses import dataclass
from itertools import chain
from typing import Self

from tasks.shared.traces.dialect import Dialect


@dataclass(frozen=True, slots=True)
class OwnText:
    """The teacher's text in pieces."""

    words: tuple[str, ...]  # the words before each block, and those after the last
    codes: tuple[str, ...]  # the program of each block

    @classmethod
    def of(cls, trace: str, dialect: Dialect) -> Self:
        """Read a trace that follows its dialect, which verification has checked."""
        words, codes = [""], list[str]()
        for segment in dialect.split(trace):
            if segment.is_feedback:
                continue
            if (
                segment.code is None or segment.block is None
            ):  # the last words, or a block answered by a notice
                words[-1] += segment.text
            else:
                words[-1] += segment.text[: segment.block.start]
                words.append("")
                codes.append(segment.code)
        return cls(tuple(words), tuple(codes))

    def __str__(self) -> str:
        """Words and programs in their order."""
        return "\n".join(chain(*zip(self.words, (*self.codes, ""), strict=True)))
