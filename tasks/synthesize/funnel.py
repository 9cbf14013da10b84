"""The funnel: how many traces each step of verification and selection let pass, and for which reasons it did not."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.synthesize.traces import STEP_OF, Checked, Reason, Step

EXAMPLES = 5
# of an example's end, where the answer stands
EXAMPLE_CHARS = 600


def funnel_of(checked: Sequence[Checked]) -> dict[str, Any]:
    """Counts by step, by reason, of what is left by calls, family and source; five examples of each reason."""
    rejected = Counter(verdict.reason for _, verdict in checked if not verdict.accepted)
    accepted = [entry for entry in checked if entry[1].accepted]
    return {
        "written": len(checked),
        "rejected": _counts(reason.value for reason in rejected.elements()),
        "accepted": len(accepted),
        "accepted_with_code": sum(1 for _, verdict in accepted if verdict.block_status),
        "accepted_by_calls": _counts(str(len(verdict.block_status)) for _, verdict in accepted),
        "accepted_by_family": _counts(written.problem.family for written, _ in accepted),
        "accepted_by_source": _counts(written.problem.source for written, _ in accepted),
        "outputs_replaced": sum(verdict.num_replaced for _, verdict in accepted),
        "steps": _steps(len(checked), rejected),
        "examples": _examples(checked, rejected),
    }


def _steps(num_written: int, rejected: Counter[Reason]) -> list[dict[str, Any]]:
    """For each step how many traces it left over, and what it took out by reason."""
    steps, left = [], num_written
    for step in Step:
        counts = {reason.value: rejected[reason] for reason in Reason if STEP_OF.get(reason) is step}
        counts = {reason: count for reason, count in counts.items() if count}
        left -= sum(counts.values())
        steps.append({"step": step.value, "left": left, "rejected": counts})
    return steps


def _examples(checked: Sequence[Checked], rejected: Counter[Reason]) -> dict[str, list[dict[str, str]]]:
    """The first rejected traces of each reason."""
    examples: dict[str, list[dict[str, str]]] = {
        reason.value: [] for reason in Reason if rejected[reason] > 0
    }
    for written, verdict in checked:
        if not verdict.accepted and len(examples[verdict.reason.value]) < EXAMPLES:
            end = verdict.trace[-EXAMPLE_CHARS:]
            examples[verdict.reason.value].append({"id": written.id, "detail": verdict.detail, "end": end})
    return examples


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
