"""Verification on the labelled set: precision and recall 1.0 on every fault that execution can decide."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings
from tasks.synthesize.selection.config import VerificationConfig
from tasks.synthesize.verify import Rules, settle, verify
from tests.unit.synthesize.labelled import DIALECT, MAX_CALLS, labelled_set


def test_precision_and_recall_are_one_on_decidable_faults():
    limits = Limits(wall_s=1.0, cpu_s=1.0)
    rules = Rules(
        DIALECT,
        MAX_CALLS,
        "last_line",
        announce_remaining_calls=False,
        stateful=False,
        limits=limits,
        verification=VerificationConfig(patience=2.0),
    )
    traces = labelled_set(num_good=10, num_endless=1)
    faulty = [one for one in traces if one.faults]
    assert len(traces) >= 300 and len(traces) - len(faulty) >= 90
    assert sum(len(one.faults) == 2 for one in faulty) >= 25
    with Interpreter(SandboxSettings(limits=limits)) as interpreter, ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda one: verify(one.written, rules, interpreter), traces))
        checked = [(one.written, verdict) for one, verdict in zip(traces, verdicts, strict=True)]
        checked = settle(checked, rules, interpreter)
    kinds: Counter[str] = Counter()
    wrong = []
    for one, (_, verdict) in zip(traces, checked, strict=True):
        kinds.update(one.faults)
        if verdict.reason not in one.reasons:
            wrong.append((one.faults, verdict.reason, verdict.detail, one.written.trace))
    assert wrong == []
    print(f"{len(traces)} traces, {len(faulty)} faulty, {len(kinds)} kinds of fault")
