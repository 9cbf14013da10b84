"""The funnel: how many traces each step of verification and selection keeps, and why it rejects the others."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.synthesize.traces import REASONS_OF, Checked, Reason

EXAMPLES = 5
EXAMPLE_CHARS = 600  # of the end of an example, which holds the answer


def funnel_of(checked: Sequence[Checked]) -> dict[str, Any]:
    """Counts by step and reason, accepted traces by calls, family and source, and five examples of each reason."""
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
    """The number of traces that each step keeps, and that it rejects by reason."""
    steps, left = [], num_written
    for step, reasons in REASONS_OF.items():
        counts = {reason.value: rejected[reason] for reason in reasons if rejected[reason]}
        left -= sum(counts.values())
        steps.append({"step": step.value, "left": left, "rejected": counts})
    return steps


def _examples(checked: Sequence[Checked], rejected: Counter[Reason]) -> dict[str, list[dict[str, str]]]:
    """The first rejected traces of each reason."""
    examples: dict[str, list[dict[str, str]]] = {reason.value: [] for reason in Reason if rejected[reason]}
    for written, verdict in checked:
        if not verdict.accepted and len(examples[verdict.reason.value]) < EXAMPLES:
            end = verdict.trace[-EXAMPLE_CHARS:]
            examples[verdict.reason.value].append({"id": written.id, "detail": verdict.detail, "end": end})
    return examples


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
