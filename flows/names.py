"""The names by which people mean an artifact, a checkpoint or an evaluation of a store.

An artifact is named by its location or the start of it (checkpoint/3f9c), the start of its digest, a tag (promoted),
<run>/<stage>/<output> (demo/rl-2/rollouts), or <run>/<stage> for that stage's checkpoint. Raises ValueError, one line,
if there is none, or more than one.
"""

from pathlib import Path

from tasks.evaluate.spec import evaluations
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.runs.record import RunRecords
from tasks.shared.runs.tags import Tags


def find(store: Store, name: str) -> tuple[ArtifactRef, str]:
    """Return the artifact of that name, and the run that the name says or its tag has, or ""."""
    run, _, rest = name.partition("/")
    tagged = None if "/" in name else Tags(store.root).current(name)
    if tagged is not None:
        return tagged.checkpoint, tagged.run
    records = RunRecords(store.root)
    record = records.read(run) if rest and run in records.names() else None
    label, _, output = rest.partition("/")
    if record and (output or label in record.stages):
        return record.output(label, output or "checkpoint"), run
    found = [
        path for path in store.locations() if path.startswith(name) or path.partition("/")[2].startswith(name)
    ]
    if not found and record:
        return record.output(label, "checkpoint"), run  # raises, and says what the run has
    if not found:
        raise ValueError(f"artifact '{name}': none such in {store.root}; see tirflow artifacts ls")
    if len(found) > 1:
        some = f"{len(found)} artifacts begin so in {store.root}: {', '.join(found[:3])}"
        raise ValueError(f"artifact '{name}': {some}; write more of the name")
    return store.read(found[0]).ref, ""


def find_checkpoint(store: Store, name: str) -> tuple[Path, str]:
    """Return the directory of a checkpoint, a folder or an artifact's, and its run ("" if no record has it)."""
    if Path(name).is_dir():
        return Path(name).resolve(), ""
    if name.startswith((".", "/", "~")):
        raise ValueError(f"checkpoint '{name}': there is no such folder")
    ref, run = find(store, name)
    if ref.kind != "checkpoint":
        raise ValueError(f"'{name}' is an artifact of kind {ref.kind}; name a checkpoint")
    return store.fetch(ref), run or _run_with(RunRecords(store.root), ref)


def _run_with(records: RunRecords, ref: ArtifactRef) -> str:
    """Return the run that was updated last of those with this output, or ""."""
    for run in records.names():
        stages = records.read(run).stages.values()
        if any(ref.digest == output.digest for stage in stages for output in stage.outputs.values()):
            return run
    return ""


def find_evaluation(store: Store, name: str) -> ArtifactRef:
    """Return the evaluation <run>/<checkpoint> (demo/rl), that of a tag's checkpoint, or any artifact."""
    run, _, which = name.partition("/")
    records = RunRecords(store.root)
    if which and "/" not in which and run in records.names():
        return evaluation_of(records, name)
    tagged = None if "/" in name else Tags(store.root).current(name)
    return tagged.evaluation if tagged is not None else find(store, name)[0]


def evaluation_of(records: RunRecords, name: str) -> ArtifactRef:
    """Return the evaluation <run>/<checkpoint>."""
    run, _, which = name.partition("/")
    found = evaluations(records.read(run).stages)
    if which not in found:
        raise ValueError(
            f"evaluation '{name}': run '{run}' has {', '.join(found) or 'none'}; write {run}/<name>"
        )
    return found[which].outputs["evaluation"]
