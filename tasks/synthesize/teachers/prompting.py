"""The prompt of a teacher, in every mode; the dialect decides the form of a trace."""

import hashlib
from dataclasses import dataclass

from data.prompts import render_prompt, text_digest
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.traces import TrainingProblem, Verdict, WrittenTrace
from tasks.synthesize.verify import Rules

EXAMPLE_CODE, EXAMPLE_OUTPUT = "print(2**10 % 1000)", "24"


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One trace to write."""

    problem: TrainingProblem
    index: int  # among the traces of this problem
    reasoning: str = ""  # the text to rewrite, "" in other modes

    @property
    def id(self) -> str:
        """The trace's id."""
        return f"{self.problem.id}/{self.index}"


class Prompting:
    """The message that asks for a trace."""

    def __init__(self, config: SynthesizeStage, rules: Rules) -> None:
        self._mode = config.synthesize.mode
        self._own = config.synthesize.prompt
        self._instructed = config.traces.prompt == "instructed"
        # a checkpoint of this project gets RL's prompt; other models have a chat template
        self.plain = self._mode == "bootstrap" and config.traces.prompt == "plain"
        self._rules = rules
        self.runs_code = self._mode != "rewrite" and rules.max_calls > 0 and rules.dialect.runs_code
        self.digest = text_digest(self.message("{problem}", "{reasoning}"))

    def message(self, problem: str, reasoning: str = "") -> str:
        """The user message: RL's prompt for bootstrap, otherwise a template."""
        if self._mode == "bootstrap":
            return self._rules.dialect.prompt(problem, self._instructed)
        dialect = self._rules.dialect
        if not dialect.runs_code or (dialect.speaks_tools and self._mode == "live"):
            return dialect.prompt(problem, instructed=True)
        return render_prompt(
            self._mode,
            self._own,
            problem=problem,
            reasoning=reasoning,
            max_calls=self._rules.max_calls,
            stateful=self._rules.stateful,
            libraries=dialect.libraries_sentence,
            wall_s=f"{self._rules.limits.wall_s:g}",
            call_example=dialect.write_call(EXAMPLE_CODE),
            feedback_example=dialect.feedback(EXAMPLE_OUTPUT).strip("\n"),
            answer_example=dialect.write_answer(EXAMPLE_OUTPUT),
        )

    def written(
        self, request: TraceRequest, trace: str, teacher: str, loss: Verdict | None = None
    ) -> WrittenTrace:
        """A trace that `teacher` wrote on this prompt."""
        return WrittenTrace(
            request.id, request.problem, trace, teacher=teacher, prompt_digest=self.digest, loss=loss
        )


def derived_seed(seed: int, request: TraceRequest, turn: int) -> int:
    """A seed of 31 bits for each turn of each trace, independent of other requests."""
    digest = hashlib.sha256(f"{seed}\0{request.id}\0{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
