"""The source of cold-start traces: the section `synthesize` of the configuration tree.

Contradictory settings are errors here, before anything heavy starts and before the first paid request.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.shared.config.endpoint import EndpointConfig
from tasks.shared.config.section import Section
from tasks.synthesize.selection.config import SelectionConfig, VerificationConfig

COMMIT_PATTERN = r"^([0-9a-f]{40})?$"


class TextSource(Section):
    """The text traces that mode `rewrite` starts from: a hub dataset, a file, or the traces of a run."""

    source: Literal["hub", "file", "traces"] = "hub"
    id: str = ""  # of the hub dataset
    revision: str = Field("", pattern=COMMIT_PATTERN)
    subset: str = ""
    split: str = "train"
    path: str = ""  # JSONL, JSON, CSV or parquet, or a folder of such files
    run: str = ""  # source = "traces": the run whose traces are rewritten
    problem_column: str = "problem"  # columns; a dot steps into nested values: "messages.1.content"
    reasoning_column: str = "reasoning"
    answer_column: str = "answer"

    @model_validator(mode="after")
    def _source_is_complete(self) -> Self:
        if self.source == "file" and not Path(self.path).is_absolute():
            raise ValueError(
                "synthesize.source.source = 'file' needs path, an absolute one (JSONL, JSON, CSV or parquet)"
            )
        if self.source == "traces" and not self.run:
            raise ValueError("synthesize.source.source = 'traces' needs run, the name of a run with traces")
        if self.source == "hub" and bool(self.id) != bool(self.revision):
            raise ValueError("synthesize.source.source = 'hub' needs id and revision (a commit hash)")
        return self


class TeacherConfig(EndpointConfig):
    """The model that writes: behind an endpoint, or in an engine of the stage's own process.

    For an engine `model` is an absolute save_pretrained directory (bootstrap: leave it empty), and only temperature,
    top_p and max_response_tokens of the other keys have an effect.
    """

    backend: Literal["endpoint", "engine"] = "endpoint"
    # of a turn after its code ran. user_turn: the output is the next user message, which works everywhere; prefill:
    # the assistant's message is continued, as in RL (vllm serve)
    continuation: Literal["user_turn", "prefill"] = "user_turn"
    samples_per_request: int = Field(1, ge=1)  # n, where the endpoint supports it


class JudgeConfig(EndpointConfig):
    """A model that votes on whether the code of a trace is novel and significant. Off while `model` is empty."""

    votes: int = Field(3, ge=1)  # on each trace
    max_response_tokens: int = Field(512, ge=1)


class SynthesizeConfig(Section):
    """Cold-start traces from a teacher; every code block is executed again."""

    # script: the embedded teacher, a program for the tiny world; rewrite: a model puts code into text traces (ReTool);
    # live: a model solves the problems with the interpreter running; bootstrap: our own checkpoint does
    mode: Literal["script", "rewrite", "live", "bootstrap"] = "script"
    traces_per_problem: int = Field(1, ge=1)
    most_problems: int | None = Field(None, ge=1)  # only the first so many, to try a teacher cheaply
    teacher: TeacherConfig = TeacherConfig()
    judge: JudgeConfig = JudgeConfig()
    source: TextSource = TextSource()
    prompt: str = ""  # absolute path of a Jinja2 template in place of data/prompts/<mode>.j2 (rewrite, live)
    # absolute directory of an earlier run's responses (its artifact, or its scratch directory if it failed), which are
    # used before the endpoint is asked
    responses: str = ""
    verification: VerificationConfig = VerificationConfig()
    selection: SelectionConfig = SelectionConfig()

    # the following keys are for mode `script`
    code_share: float = Field(0.5, ge=0, le=1)  # traces with code; the others reason in text alone
    # of those with code: with a failed block and its correction
    correction_share: float = Field(0.15, ge=0, le=1)
    # of those with code: with a second program that checks the result
    check_share: float = Field(0.1, ge=0, le=1)
    wrong_program_rate: float = Field(0.03, ge=0, le=1)
    syntax_error_rate: float = Field(0.02, ge=0, le=1)
    fabricated_output_rate: float = Field(0.03, ge=0, le=1)
    wrong_answer_rate: float = Field(0.03, ge=0, le=1)
    broken_tags_rate: float = Field(0.02, ge=0, le=1)

    @property
    def uses_engine(self) -> bool:
        """Whether the stage loads a model."""
        return self.mode != "script" and self.teacher.backend == "engine"

    @property
    def uses_endpoint(self) -> bool:
        """Whether the stage asks an endpoint."""
        return self.mode != "script" and self.teacher.backend == "endpoint"

    @model_validator(mode="after")
    def _mode_has_its_teacher(self) -> Self:
        teacher = self.teacher
        if self.uses_endpoint:
            teacher.require_address("synthesize.teacher")
            if self.mode == "bootstrap" and teacher.continuation != "prefill":
                raise ValueError(
                    "synthesize.mode = 'bootstrap' at an endpoint needs teacher.continuation = 'prefill': "
                    "our models continue within their turn"
                )
        elif self.uses_engine and self.mode != "bootstrap" and not Path(teacher.model).is_absolute():
            raise ValueError(
                f"synthesize.teacher.model = '{teacher.model}': backend = 'engine' needs the absolute path of a "
                "save_pretrained directory"
            )
        if self.judge.model:
            self.judge.require_address("synthesize.judge")
        if self.mode == "rewrite" and self.source.source == "hub" and not self.source.id:
            raise ValueError("synthesize.mode = 'rewrite' needs synthesize.source: a hub id, a file or a run")
        for key, path in (("responses", self.responses), ("prompt", self.prompt)):
            if path and not Path(path).is_absolute():
                raise ValueError(f"synthesize.{key} = '{path}' is relative; give an absolute path")
        return self
