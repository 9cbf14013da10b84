"""The form of traces and the limits of their programs: the sections `traces` and `sandbox`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.shared.config.section import Section
from tasks.shared.sandbox.records import PRELOAD

DialectName = Literal["retool", "torl", "hermes", "text"]


class TracesConfig(Section):
    """The form of reasoning, code and interpreter output, shared by synthesis, SFT, RL and evaluation."""

    dialect: DialectName = "retool"
    # bare: the problem alone, for models trained here; plain: text without a chat template, for base models (ToRL)
    prompt: Literal["instructed", "bare", "plain"] = "instructed"
    max_calls: int = Field(16, ge=0)  # C; after them a block is plain text
    announce_remaining_calls: bool = False  # 'remaining calls: n' in the feedback (ASTER)
    # an incomplete block is answered with the expected form, and counts as a call; false: it is plain text
    block_notices: bool = True
    # ReTool shows the whole message, ToRL its last line
    error_feedback: Literal["full", "last_line"] = "full"

    @model_validator(mode="after")
    def _text_has_no_calls(self) -> Self:
        if self.dialect == "text" and self.max_calls:
            raise ValueError("traces.dialect = 'text' runs no code: set traces.max_calls = 0")
        if self.dialect == "hermes" and self.prompt == "plain":
            raise ValueError(
                "traces.dialect = 'hermes' needs the chat template: set traces.prompt to instructed or bare"
            )
        return self


class SandboxConfig(Section):
    """Limits of one program and the shape of the interpreter service."""

    stateful: bool = False  # false: each block runs in a fresh child (ReTool)
    workers: int = Field(4, ge=1)
    wall_s: float = Field(10.0, gt=0)
    cpu_s: float = Field(10.0, gt=0)
    memory_mb: int = Field(1024, ge=32)
    output_chars: int = Field(4096, ge=64, le=250_000)  # more would not fit into a reply
    preload: tuple[str, ...] = PRELOAD  # libraries that programs can import; the instruction names them
    # empty: the stage starts its own; else unix:/path or tcp:host:port (token from the environment)
    address: str = ""
    allow_unsafe: bool = False  # runs model-written code without isolation; every report says so
