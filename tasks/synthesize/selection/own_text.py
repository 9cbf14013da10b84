"""A trace as selection reads it: the teacher's words, the programs, and nothing that the interpreter wrote."""

from dataclasses import dataclass
from typing import Self

from tasks.shared.traces.dialect import Dialect


@dataclass(frozen=True, slots=True)
class OwnText:
    """What the teacher wrote, in pieces."""

    words: tuple[str, ...]  # the words before each block, and those after the last
    codes: tuple[str, ...]  # of each block

    @classmethod
    def of(cls, trace: str, dialect: Dialect) -> Self:
        """Read a trace that verification has accepted: it follows its dialect."""
        words, codes, opening = [], [], ""
        for segment in dialect.split(trace):
            if segment.is_feedback:
                continue
            if segment.block is not None and segment.code is None:  # answered by a notice: words
                opening += segment.text
            elif segment.code is None:
                words.append(opening + segment.text)
            else:
                assert segment.block is not None
                words.append(opening + segment.text[: segment.block.start])
                codes.append(segment.code)
                opening = ""
        return cls(tuple(words), tuple(codes))

    def __str__(self) -> str:
        """Words and programs, as they follow each other."""
        pieces = [piece for pair in zip(self.words, (*self.codes, ""), strict=True) for piece in pair]
        return "\n".join(pieces)
