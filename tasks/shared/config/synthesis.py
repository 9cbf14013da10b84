"""Where cold-start traces come from: the section `synthesize` of the configuration tree.

Combinations that make no sense are errors here, before anything heavy starts and before a paid request goes out.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.shared.config.endpoint import EndpointConfig
from tasks.shared.config.section import Section
from tasks.shared.config.selection import SelectionConfig, VerificationConfig

COMMIT_PATTERN = r"^([0-9a-f]{40})?$"


class TextSource(Section):
    """The text traces that mode `rewrite` starts from: a hub dataset, a file, or traces that were made here."""

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
            raise ValueError(
                "synthesize.source.source = 'traces' needs run, the name of a run that has traces"
            )
        if self.source == "hub" and bool(self.id) != bool(self.revision):
            raise ValueError("synthesize.source.source = 'hub' needs id and revision (a commit hash)")
        return self


class TeacherConfig(EndpointConfig):
    """The model that writes: behind an endpoint, or in an engine of the stage's own process.

    For an engine `model` is an absolute save_pretrained directory (bootstrap: leave it empty), and of the rest only
    temperature, top_p and max_response_tokens count.
    """

    backend: Literal["endpoint", "engine"] = "endpoint"
    # how a turn goes on after code ran. user_turn: the output is the next user message, works everywhere; prefill: the
    # assistant's message is continued, as in RL (vllm serve)
    continuation: Literal["user_turn", "prefill"] = "user_turn"
    samples_per_request: int = Field(1, ge=1)  # n, where the endpoint supports it


class JudgeConfig(EndpointConfig):
    """A model that votes on the code of a trace: is it novel, is it significant? Off while `model` is empty."""

    votes: int = Field(3, ge=1)  # on each trace
    max_response_tokens: int = Field(512, ge=1)


class SynthesizeConfig(Section):
    """Cold-start traces from a teacher, every code block executed again."""

    # script: the embedded teacher, a program for the tiny world; rewrite: a model puts code into text traces (ReTool);
    # live: a model solves the problems with the interpreter running; bootstrap: our own checkpoint does
    mode: Literal["script", "rewrite", "live", "bootstrap"] = "script"
    traces_per_problem: int = Field(1, ge=1)
    most_problems: int | None = Field(None, ge=1)  # the first of them: to try a teacher before paying for all
    teacher: TeacherConfig = TeacherConfig()
    judge: JudgeConfig = JudgeConfig()
    source: TextSource = TextSource()
    prompt: str = ""  # absolute path of a Jinja2 template in place of data/prompts/<mode>.j2 (rewrite, live)
    # absolute directory of responses that an earlier run got (its artifact, or its scratch directory if it failed):
    # they are taken first, and only what is missing is asked for
    responses: str = ""
    verification: VerificationConfig = VerificationConfig()
    selection: SelectionConfig = SelectionConfig()

    # what follows is of mode `script` alone
    code_share: float = Field(0.5, ge=0, le=1)  # traces with code; the others reason in text alone
    # of those with code: a failed block, then its correction
    correction_share: float = Field(0.15, ge=0, le=1)
    # of those with code: the result is checked by another program
    check_share: float = Field(0.1, ge=0, le=1)
    wrong_program_rate: float = Field(0.03, ge=0, le=1)
    syntax_error_rate: float = Field(0.02, ge=0, le=1)
    fabricated_output_rate: float = Field(0.03, ge=0, le=1)
    wrong_answer_rate: float = Field(0.03, ge=0, le=1)
    broken_tags_rate: float = Field(0.02, ge=0, le=1)

    @property
    def uses_engine(self) -> bool:
        """Whether the stage itself holds a model."""
        return self.mode != "script" and self.teacher.backend == "engine"

    @property
    def uses_endpoint(self) -> bool:
        """Whether the stage asks a server."""
        return self.mode != "script" and self.teacher.backend == "endpoint"

    @model_validator(mode="after")
    def _mode_has_its_teacher(self) -> Self:
        teacher = self.teacher
        if self.uses_endpoint:
            teacher.require_address("synthesize.teacher")
            if self.mode == "bootstrap" and teacher.continuation != "prefill":
                raise ValueError(
                    "synthesize.mode = 'bootstrap' at an endpoint needs teacher.continuation = 'prefill': "
                    "our models go on within their turn"
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
