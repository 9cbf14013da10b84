"""The stages of a recipe under a run's name: which are done, which will run and why, which miss an input.

    tirflow plan tiny --run demo [--set rl.rounds=3] [--json]

Calls the pipeline itself and answers its orders, so it lists the same stages as a run. Writes nothing.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.orders import Pending
from flows.pipeline import stages
from tasks.launch.run import Run, StageOrder, describe_work, result_storage
from tasks.recipes import Recipe
from tasks.shared.artifacts import Store
from tasks.shared.config.differences import differences
from tasks.shared.contract.documents import check_name
from tasks.shared.contract.environment import store_uri
from tasks.shared.contract.stage import StageResult
from tasks.shared.runs.record import RunRecord, RunRecords

State = Literal["cached", "will run", "missing input"]
COLOURS = {"cached": "green", "will run": "yellow", "missing input": "red"}


@dataclass(frozen=True, slots=True)
class StageOutlook:
    """What will happen to one stage."""

    label: str
    state: State
    reasons: list[str]  # why it will run, or what is missing


@dataclass(slots=True)
class DryRun:
    """Answers stage orders without running them, and collects what would happen to each stage."""

    store: Store
    record: RunRecord | None  # of the run so far
    stages: list[StageOutlook] = field(default_factory=list)

    def __call__(self, order: StageOrder) -> StageResult:
        """The result of the same work if it was done, else a result with pending outputs."""
        waits = {name: ref for name, ref in order.inputs.items() if ref.kind == "pending"}
        missing = [
            f"input '{name}': {ref.location} is not in {self.store.root}"
            for name, ref in order.inputs.items()
            if name not in waits and not self.store.exists(ref)
        ]
        missing += [f"no file {path}" for path in order.files if not path.exists()]
        try:
            work = describe_work(order, self.store.root)
        except ValueError as error:
            return self._answer(order, "missing input", [*missing, str(error)])
        if missing:
            return self._answer(order, "missing input", missing)
        done = None if waits else remembered(self.store.root, work.key)
        if done and all(self.store.exists(ref) for ref in done.outputs.values()):
            self.stages.append(StageOutlook(order.label, "cached", []))
            return done
        reasons = ["its outputs are gone from the store"] if done else self._why(order.label, work.parts)
        return self._answer(order, "will run", reasons)

    def _answer(self, order: StageOrder, state: State, reasons: list[str]) -> StageResult:
        self.stages.append(StageOutlook(order.label, state, reasons))
        return StageResult.model_construct(outputs=Pending(order.label), metrics={}, seconds=0.0)

    def _why(self, label: str, parts: dict[str, Any]) -> list[str]:
        """The parts of the key that have changed since the run did this stage."""
        before = self.record.stages.get(label) if self.record else None
        if before is None:
            return ["new in this run"]
        changed = differences(_by_name(before.made_of), _by_name(parts))
        return [_described(line) for line in changed] or [
            "finished work is not remembered here (TIRFLOW_HOME)"
        ]


def _by_name(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts with the versions `python 3.11.7 x86_64; numpy 2.4.0; ...` by name."""
    listed = [part.partition(" ") for part in parts.get("surroundings", "").split("; ")]
    return parts | {"surroundings": {name: version for name, _, version in listed}}


def _described(difference: str) -> str:
    """A difference of a key's parts in the user's terms."""
    part = difference.partition(":")[0].partition(".")[0]
    named = {"code": "its sources changed", "files": "a local file it reads changed"}
    if part == "inputs":
        return f"input '{difference.partition(':')[0].removeprefix('inputs.')}' is another"
    return named.get(part, difference.removeprefix("config."))


def remembered(store: str, key: str) -> StageResult | None:
    """The result that Prefect stores under a key; None for work that was not done."""
    storage = result_storage(store)
    block = storage if not hasattr(storage, "is_dir") else LocalFileSystem(basepath=str(storage))
    results = ResultStore(result_storage=block)
    if not results.exists(key):
        return None
    return StageResult.model_validate(results.read(key).result, from_attributes=True)


def outlook(recipe: Recipe, run: str, store: str) -> list[StageOutlook]:
    """What will happen to each stage of a recipe under a run's name, in the order of the pipeline."""
    records = RunRecords(store)
    record = records.read(run) if check_name(run) in records.names() else None
    dry_run = DryRun(Store(store), record)
    stages(Run(run, recipe, store=store, dry_run=dry_run))
    return dry_run.stages


def print_dry_run(recipe: Recipe, run: str, as_json: bool) -> int:
    """Print the outlook; exit code 2 if an input is missing. ValueError for a name or record that is none."""
    found = outlook(recipe, run, store_uri())
    if as_json:
        content = {"run": run, "stages": [asdict(stage) for stage in found]}
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        _show(found, Console())
    return 2 if any(stage.state == "missing input" for stage in found) else 0


def _show(found: Sequence[StageOutlook], console: Console) -> None:
    table = Table(box=None, padding=(0, 1))
    for column in ("stage", "", "why"):
        table.add_column(column, overflow="fold")
    for stage in found:
        state = f"[{COLOURS[stage.state]}]{stage.state}[/]"
        table.add_row(stage.label, state, escape("\n".join(stage.reasons)))
    console.print(table)
