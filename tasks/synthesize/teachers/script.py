"""The embedded teacher: a program that writes traces for the tiny world, with faults at given rates.

The seed and the problem's id alone decide the outline of a trace (wording, programs, number of blocks, fault). Then its
programs run in the sandbox, and the trace is written with their outputs. Programs come from the problem's family,
whose parameters are read from the problem's text. A stage that was killed writes equal traces again, at no cost.
"""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from data.families import TRAIN_FAMILIES, WORD_FAMILIES, Family, Params
from data.wording import (
    CHECK_OPENINGS,
    CODE_CLOSINGS,
    CODE_OPENINGS,
    CORRECTION_OPENINGS,
    TEXT_CLOSINGS,
    TEXT_OPENINGS,
    restate,
)
from tasks.shared.sandbox import Status
from tasks.shared.tools.protocol import Tool
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.execution import run_blocks
from tasks.synthesize.teachers.faults import break_program, break_tags, forge_output, other_answer
from tasks.synthesize.teachers.prompting import TraceRequest
from tasks.synthesize.traces import Fault, TrainingProblem, WrittenTrace
from tasks.synthesize.verify import Rules

THREADS = 8
CODE_FAULTS = (Fault.WRONG_PROGRAM, Fault.SYNTAX_ERROR, Fault.FABRICATED_OUTPUT)


@dataclass(frozen=True, slots=True)
class Outline:
    """The outline of a trace, before its programs run."""

    blocks: tuple[tuple[str, str], ...]  # sentence and program of each block, in order; none for text alone
    closing: str  # sentences before the answer
    fault: Fault


class ScriptTeacher:
    """Writes traces for problems of the tiny world; the same seed and problem give the same trace."""

    def __init__(self, config: SynthesizeConfig, rules: Rules, runner: Tool, seed: int) -> None:
        self._config = config
        self._rules = rules
        self._runner = runner
        self._seed = seed
        self._families = {family.name: family for family in (*TRAIN_FAMILIES, *WORD_FAMILIES)}
        self.metrics: dict[str, float | int] = {}

    def write(self, requests: Sequence[TraceRequest]) -> Iterator[WrittenTrace]:
        """The requested traces, in order; threads only wait for the sandbox."""
        with ThreadPoolExecutor(THREADS) as threads:
            yield from threads.map(lambda request: self.write_trace(request.problem, request.index), requests)

    def write_trace(self, problem: TrainingProblem, index: int) -> WrittenTrace:
        """Write trace number `index` of a problem. Runs its programs.

        Raises ValueError for a problem of an unknown family, and RuntimeError if the sandbox fails.
        """
        family = self._families.get(problem.family)
        params = family.read_params(problem.problem) if family else None
        if family is None or params is None:
            raise ValueError(
                f"problem {problem.id}: synthesize.mode = 'script' writes traces for the tiny world's families only; "
                "take this problem set out of data.train"
            )
        rng = random.Random(f"{self._seed}:{problem.id}:{index}")
        outline = self._outline(family, params, problem, rng)
        trace = self._compose(outline, problem, rng)
        return WrittenTrace(f"{problem.id}/{index}", problem, trace, outline.fault)

    def _outline(
        self, family: Family, params: Params, problem: TrainingProblem, rng: random.Random
    ) -> Outline:
        max_blocks = self._rules.max_calls
        with_code = rng.random() < self._config.code_share and max_blocks > 0
        fault = self._draw_fault(with_code, rng)
        if not with_code:
            return Outline((), self._reason_in_text(family, params, problem, rng), fault)
        given = restate(problem.problem)
        programs = rng.sample(family.programs, k=2)
        blocks = [(f"{rng.choice(CODE_OPENINGS)} {given}", programs[0].format(**params))]
        if fault is Fault.WRONG_PROGRAM:
            program = self._wrong_program(family, params, problem)
            fault = Fault.NONE if program is None else fault
            blocks = [(blocks[0][0], program or blocks[0][1])]
        elif fault is Fault.SYNTAX_ERROR:
            blocks = [(blocks[0][0], break_program(blocks[0][1], rng))]
        elif fault is Fault.NONE:
            blocks = self._extend(blocks, programs[1].format(**params), rng)
        return Outline(tuple(blocks), rng.choice(CODE_CLOSINGS), fault)

    def _reason_in_text(
        self, family: Family, params: Params, problem: TrainingProblem, rng: random.Random
    ) -> str:
        """The steps of a calculation by hand, or a sentence in their place if the family has none."""
        if family.reasonings:
            return rng.choice(family.reasonings).format(**family.work(params))
        given = restate(problem.problem)
        return f"{rng.choice(TEXT_OPENINGS)} {given} {rng.choice(TEXT_CLOSINGS)}"

    def _draw_fault(self, with_code: bool, rng: random.Random) -> Fault:
        """One fault or none; a trace without code has no fault of code."""
        config = self._config
        rates = {
            Fault.WRONG_PROGRAM: config.wrong_program_rate,
            Fault.SYNTAX_ERROR: config.syntax_error_rate,
            Fault.FABRICATED_OUTPUT: config.fabricated_output_rate,
            Fault.WRONG_ANSWER: config.wrong_answer_rate,
            Fault.BROKEN_TAGS: config.broken_tags_rate,
        }
        draw = rng.random()
        for fault, rate in rates.items():
            if draw < rate:
                return Fault.NONE if fault in CODE_FAULTS and not with_code else fault
            draw -= rate
        return Fault.NONE

    def _extend(self, blocks: list[tuple[str, str]], check: str, rng: random.Random) -> list[tuple[str, str]]:
        """Put a failing attempt before the program, or a checking program after it, each at its rate."""
        if rng.random() < self._config.correction_share and self._rules.max_calls > 1:
            opening, program = blocks[0]
            blocks = [(opening, break_program(program, rng)), (rng.choice(CORRECTION_OPENINGS), program)]
        if rng.random() < self._config.check_share and self._rules.max_calls > len(blocks):
            blocks = [*blocks, (rng.choice(CHECK_OPENINGS), check)]
        return blocks

    def _wrong_program(self, family: Family, params: Params, problem: TrainingProblem) -> str | None:
        """A near miss that does not print the answer, or None if all print it."""
        for near_miss in family.near_misses:
            program = near_miss.format(**params)
            (result,) = run_blocks([program], self._runner, stateful=False)
            if result.stdout.split() != [problem.answer]:
                return program
        return None

    def _compose(self, outline: Outline, problem: TrainingProblem, rng: random.Random) -> str:
        """Run its programs and write the trace."""
        dialect, answer, parts = self._rules.dialect, problem.answer, []
        results = run_blocks([program for _, program in outline.blocks], self._runner, self._rules.stateful)
        for block, ((opening, program), result) in enumerate(zip(outline.blocks, results, strict=True)):
            if result.status is Status.SANDBOX_FAILURE:
                raise RuntimeError(
                    f"the sandbox failed while the teacher wrote for {problem.id}: {result.error_line}"
                )
            if outline.fault is Fault.FABRICATED_OUTPUT:
                answer, forged = forge_output(result.stdout, answer, rng)
                result = replace(result, stdout=forged)
            elif outline.fault is Fault.WRONG_PROGRAM:
                answer = result.stdout.strip()
            feedback = self._rules.feedback(block, result)
            parts.append(f"{opening}\n{dialect.write_call(program)}{feedback}")
        if outline.fault is Fault.WRONG_ANSWER:
            answer = other_answer(answer, rng)
        trace = "".join([*parts, outline.closing, "\n", dialect.write_answer(answer)])
        return break_tags(trace, dialect, rng) if outline.fault is Fault.BROKEN_TAGS else trace
