"""Run every code block of an evaluation again in the sandbox, and find out why one prints something else here."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.prove.findings import CLOCK, LIMIT, OUTPUT, RECORD, RUN_TO_RUN, SANDBOX, Difference, short
from tasks.prove.replay import not_as_recorded, replay, sample_name
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
# names that give another value in each run; random numbers and hashes of text have the same seed in every sandbox
UNSTEADY = re.compile(
    r"\b(time|datetime|date|perf_counter|timeit|uuid\d?|secrets|urandom|SystemRandom|default_rng|id|getpid|threading)\b"
    r"|\bat 0x"
)


@dataclass(slots=True)
class Replayed:
    """The result of running an evaluation's samples again."""

    calls: int = 0  # code blocks that ran
    responses: int = 0
    programs: list[Difference] = field(default_factory=list)
    records: list[Difference] = field(default_factory=list)


def isolated(sandbox: SandboxConfig) -> SandboxConfig:
    """Return the certificate's limits for a sandbox on this machine. Nothing else is taken from the certificate.

    Raises ValueError for limits that are too large for a stranger's programs, or for other libraries.
    """
    time_s = max(sandbox.wall_s, sandbox.cpu_s)
    if time_s > MOST_WALL_S or sandbox.memory_mb > MOST_MEMORY_MB:
        raise ValueError(
            f"the certificate asks for programs of {time_s:g} s and {sandbox.memory_mb} MB; "
            f"at most {MOST_WALL_S:g} s and {MOST_MEMORY_MB} MB are granted"
        )
    others = sorted(set(sandbox.preload) - set(PRELOAD))
    if others:
        raise ValueError(f"the certificate's programs import '{others[0]}', which its sandbox does not load")
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
    """Replay every sample of the evaluation `name`. `ends` are the ids that end a turn.

    Raises SandboxUnavailable, with the remedy, if this machine cannot isolate programs.
    """
    config = config.model_copy(update={"sandbox": isolated(config.sandbox)})
    found = Replayed()
    with ExitStack() as stack:
        tool: Tool | None = None
        if config.traces.max_calls and config.traces.dialect != "text":
            tool = stack.enter_context(open_tool(config.sandbox))
        for sample, trajectory, is_finished in replay(samples, config, tool, tokenizer, ends):
            found.responses += 1
            found.calls += sum(call.executed for call in sample.calls)
            where = f"{name}: {sample_name(sample)}"
            programs = _different_outputs(where, sample, trajectory, config, tool)
            found.programs += programs
            if not programs:  # otherwise the ids differ too, and show nothing more
                parts = not_as_recorded(sample, trajectory, tokenizer) + ([] if is_finished else ["its end"])
                if parts:
                    found.records.append(Difference(where, RECORD, ", ".join(parts)))
            tell(f"{name}: {found.responses} of {len(samples)} samples, {found.calls} programs run again")
    return found


def _different_outputs(
    where: str, sample: Sample, trajectory: Trajectory, config: EvaluateStage, tool: Tool | None
) -> list[Difference]:
    """Return the calls of a sample whose output is not as recorded."""
    found = []
    for number, (recorded, rerun) in enumerate(zip(sample.calls, trajectory.calls, strict=False)):
        if recorded.code != rerun.code or recorded.executed != rerun.executed:
            break  # a different program is reported by `not_as_recorded`
        if (recorded.status, recorded.observation) != (rerun.status, rerun.observation):
            assert tool is not None
            codes = [call.code for call in sample.calls[: number + 1] if call.executed]
            kind = _kind_of_difference(recorded, rerun, codes, config, tool)
            stated, found_here = (f"{call.status} {short(call.observation)}" for call in (recorded, rerun))
            found.append(Difference(f"{where}, call {number + 1}", kind, f"{stated}, here {found_here}"))
    return found


def _kind_of_difference(
    recorded: CodeCall, rerun: CodeCall, codes: list[str], config: EvaluateStage, tool: Tool
) -> str:
    """Return the kind of a difference. Runs the blocks `codes` twice more to see whether the output is stable."""
    if rerun.status == Status.SANDBOX_FAILURE.value:
        return SANDBOX
    if LIMITS & {recorded.status, rerun.status}:
        return LIMIT
    stateful = config.sandbox.stateful
    codes = codes if stateful else codes[-1:]
    shown = {(rerun.status, rerun.observation)}
    for _ in range(2):
        result = run_blocks(codes, tool, stateful)[-1]
        if result.status is Status.SANDBOX_FAILURE:
            return SANDBOX
        shown.add((result.status.value, observe(result, config.traces.error_feedback)))
    if len(shown) > 1:
        return RUN_TO_RUN
    return CLOCK if any(UNSTEADY.search(code) for code in codes) else OUTPUT
