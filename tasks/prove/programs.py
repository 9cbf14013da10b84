"""Every code block of an evaluation again in the sandbox, and why one prints something else here."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.prove.findings import (
    CLOCK,
    LIMIT,
    OUTPUT,
    RECORD,
    RUN_TO_RUN,
    SANDBOX,
    Difference,
    short,
)
from tasks.prove.replay import not_as_recorded, replay
from tasks.shared.config import EvaluateStage, SandboxConfig
from tasks.shared.reporting.samples import Sample
from tasks.shared.sandbox import Status
from tasks.shared.sandbox.records import PRELOAD
from tasks.shared.tools.interpreter import open_tool
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.observation import observe
from tasks.shared.traces.trajectory import CodeCall, Trajectory
from tasks.synthesize.execution import run_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_WALL_S, MOST_MEMORY_MB = 300.0, 16_384  # of one program of a certificate
LIMITS = {Status.TIMEOUT.value, Status.OUT_OF_MEMORY.value}
# what of Python gives another value each time; random and hashes of text have the same seed in every sandbox
UNSTEADY = re.compile(
    r"\b(time|datetime|date|perf_counter|timeit|uuid\d?|secrets|urandom|SystemRandom|default_rng|id|getpid|threading)\b"
    r"|\bat 0x"
)


@dataclass(slots=True)
class Replayed:
    """What running an evaluation's samples again has shown."""

    calls: int = 0  # code blocks that were run
    responses: int = 0
    programs: list[Difference] = field(default_factory=list)
    records: list[Difference] = field(default_factory=list)


def isolated(sandbox: SandboxConfig) -> SandboxConfig:
    """The limits of a certificate, in a sandbox of this machine: nothing else of it is taken over.

    ValueError for limits that nobody should grant to a stranger, or libraries that the sandbox does not give.
    """
    if sandbox.wall_s > MOST_WALL_S or sandbox.cpu_s > MOST_WALL_S or sandbox.memory_mb > MOST_MEMORY_MB:
        raise ValueError(
            f"the certificate asks for programs of {max(sandbox.wall_s, sandbox.cpu_s):g} s and {sandbox.memory_mb} MB;"
            f" at most {MOST_WALL_S:g} s and {MOST_MEMORY_MB} MB are granted"
        )
    others = sorted(set(sandbox.preload) - set(PRELOAD))
    if others:
        raise ValueError(
            f"the certificate's programs import '{others[0]}', which a sandbox for strangers does not load"
        )
    own = {"address": "", "allow_unsafe": False, "workers": len(os.sched_getaffinity(0))}
    return sandbox.model_copy(update=own)


def run_again(
    name: str,
    samples: Sequence[Sample],
    config: EvaluateStage,
    tokenizer: "PreTrainedTokenizerBase",
    ends: frozenset[int],
    tell: Callable[[str], None],
) -> Replayed:
    """Send every sample of the evaluation `name` through the loop again; `ends`: ids that end a turn.

    SandboxUnavailable, with the remedy, where this machine cannot isolate programs.
    """
    config = config.model_copy(update={"sandbox": isolated(config.sandbox)})
    found = Replayed()
    with ExitStack() as stack:
        interpreter: Tool | None = None
        if config.traces.max_calls and config.traces.dialect != "text":
            interpreter = stack.enter_context(open_tool(config.sandbox))
        for sample, trajectory, is_finished in replay(samples, config, interpreter, tokenizer, ends):
            found.responses += 1
            found.calls += sum(call.executed for call in sample.calls)
            where = f"{name}: {sample.set}/{sample.problem_id}/{sample.sample}"
            programs = list(_programs(where, sample, trajectory, config, interpreter))
            found.programs += programs
            if not programs:  # another output has other ids, which says nothing more
                parts = not_as_recorded(sample, trajectory, tokenizer) + ([] if is_finished else ["its end"])
                if parts:
                    found.records.append(Difference(where, RECORD, ", ".join(parts)))
            tell(f"{name}: {found.responses} of {len(samples)} samples, {found.calls} programs run again")
    return found


def _programs(
    where: str,
    sample: Sample,
    trajectory: Trajectory,
    config: EvaluateStage,
    interpreter: Tool | None,
) -> "Sequence[Difference]":
    """The calls of a sample that are not as recorded."""
    found = []
    for number, (recorded, here) in enumerate(zip(sample.calls, trajectory.calls, strict=False)):
        if recorded.code != here.code or recorded.executed != here.executed:
            break  # another program: the record is not the loop's, see `not_as_recorded`
        if (recorded.status, recorded.observation) != (here.status, here.observation):
            assert interpreter is not None
            kind = _why(number, recorded, here, sample, config, interpreter)
            said = f"{recorded.status} {short(recorded.observation)}, here {here.status} {short(here.observation)}"
            found.append(Difference(f"{where}, call {number + 1}", kind, said))
    return found


def _why(
    number: int,
    recorded: CodeCall,
    here: CodeCall,
    sample: Sample,
    config: EvaluateStage,
    interpreter: Tool,
) -> str:
    """The kind of a difference; the blocks up to it are run twice more to see what is steady."""
    if here.status == Status.SANDBOX_FAILURE.value:
        return SANDBOX
    if LIMITS & {recorded.status, here.status}:
        return LIMIT
    codes = [call.code for call in sample.calls[: number + 1] if call.executed]
    stateful = config.sandbox.stateful
    codes = codes if stateful else codes[-1:]
    shown = {(here.status, here.observation)}
    for _ in range(2):
        result = run_blocks(codes, interpreter, stateful)[-1]
        if result.status is Status.SANDBOX_FAILURE:
            return SANDBOX
        shown.add((result.status.value, observe(result, config.traces.error_feedback)))
    if len(shown) > 1:
        return RUN_TO_RUN
    return CLOCK if any(UNSTEADY.search(code) for code in codes) else OUTPUT
