"""Verification and selection of traces: the sections `synthesize.verification` and `synthesize.selection`.

The defaults are for thousands of traces with code, from a model. Each filter names the value that switches it off.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.shared.config.section import Section


class VerificationConfig(Section):
    """How recorded interpreter output is compared with real output."""

    # replace: for teachers that invent outputs (rewrite); the true output replaces them
    recorded_output: Literal["compare", "replace"] = "compare"
    # relative, between numbers with a point or an exponent; 0: text against text
    float_tolerance: float = Field(1e-6, ge=0, lt=1)
    # a block that times out unexpectedly runs again alone, with its limits multiplied by this
    patience: float = Field(3.0, ge=1)


class SelectionConfig(Section):
    """The filters for verified traces, in the order in which they run."""

    require_code: bool = True  # a block runs before the answer, and the answer is not stated before it
    # work of the block that computes most (tasks/synthesize/selection); 0: off
    min_code_work: int = Field(3, ge=0)
    repeated_blocks: Literal["reject", "keep"] = "reject"
    max_chars: int = Field(60_000, ge=0)  # about 16k tokens; 0: off
    min_latin_share: float = Field(0.95, ge=0, le=1)  # of the letters outside code; 0: off
    judge_majority: float = Field(0.5, ge=0, le=1)  # of the judge's votes, if there is a judge; 0: off
    max_similarity: float = Field(0.8, gt=0, le=1)  # Jaccard of five-word shingles to a kept trace; 1: off
    decontaminate_ngram: int = Field(8, ge=0)  # words, against every evaluation set; 0: off
    # exclusive bounds, for the input `pass_rates`
    min_pass_rate: float = Field(0.0, ge=0, lt=1)
    max_pass_rate: float = Field(1.0, gt=0, le=1)
    # spread evenly over sources and numbers of calls; None: all that is left
    most_traces: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _pass_rates_leave_room(self) -> Self:
        if self.min_pass_rate >= self.max_pass_rate:
            raise ValueError(
                f"synthesize.selection.min_pass_rate = {self.min_pass_rate} leaves nothing below max_pass_rate = "
                f"{self.max_pass_rate}"
            )
        return self
