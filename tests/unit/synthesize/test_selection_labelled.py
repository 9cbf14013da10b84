"""Selection and `replace` on labelled traces: obvious faults are found, good traces kept; docs list sly ones."""

from collections.abc import Sequence

from tasks.shared.rows.ngrams import gram_owners
from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.selection import References, select
from tasks.synthesize.selection.config import SelectionConfig, VerificationConfig
from tasks.synthesize.traces import Reason
from tasks.synthesize.verify import Rules, verify
from tests.unit.synthesize.in_process import InProcessRunner
from tests.unit.synthesize.labelled_quality import Case, evaluation_problems, replace_cases, selection_cases

DIALECT = DIALECTS["retool"]


def rules(recorded_output: str) -> Rules:
    verification = VerificationConfig(recorded_output=recorded_output)
    return Rules(
        DIALECT, 4, "last_line", announce_remaining_calls=False, stateful=False, verification=verification
    )


def figures(cases: Sequence[Case], reasons: Sequence[Reason]) -> dict[tuple[str, bool], tuple[int, int]]:
    """Rejected and all traces of each fault and form; prints the table that docs/verification.md holds."""
    counted: dict[tuple[str, bool], tuple[int, int]] = {}
    for case, reason in zip(cases, reasons, strict=True):
        rejected, total = counted.get((case.fault, case.sly), (0, 0))
        counted[case.fault, case.sly] = rejected + (reason is not Reason.ACCEPTED), total + 1
    for (fault, sly), (rejected, total) in counted.items():
        print(f"| {fault or 'none'} | {'sly' if sly else 'obvious'} | {rejected} of {total} |")
    return counted


def test_selection_on_labelled_traces():
    cases = selection_cases()
    checked = [(case.written, verify(case.written, rules("compare"), InProcessRunner())) for case in cases]
    assert all(verdict.accepted for _, verdict in checked), "execution decides none of these"
    references = References(gram_owners(evaluation_problems(), 8))
    selected = select(checked, SelectionConfig(), DIALECT, references)
    counted = figures(cases, [verdict.reason for _, verdict in selected])
    assert counted["", False][0] == 0
    found = [fault for (fault, sly), (rejected, total) in counted.items() if not sly and rejected == total]
    assert found == [
        "trivial code",
        "answer before code",
        "evaluation problem quoted",
        "another script",
        "near-duplicate",
    ]


def test_replaced_outputs_on_labelled_traces():
    cases = replace_cases()
    reasons = [verify(case.written, rules("replace"), InProcessRunner()).reason for case in cases]
    counted = figures(cases, reasons)
    assert set(reasons) == {Reason.ACCEPTED, Reason.CONTRADICTED}
    assert counted["false output used", False] == (40, 40)
