"""A collection keeps what is referenced, removes the rest on request, and never touches inputs of a living stage."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.runs.collection import Collection, Policy, collect
from tasks.shared.runs.leases import Leases
from tasks.shared.runs.record import RunRecords, StageRecord
from tasks.shared.runs.tags import Night, Nights, Pins, Tagged, Tags
from tests.artifacts import publish

NOW = Policy(trainer_states=1, youngest=timedelta(0))


class World:
    """A store with artifacts of a few bytes."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.store = Store(root)
        self.records = RunRecords(root)

    def make(self, kind: str, content: str, **inputs: ArtifactRef) -> ArtifactRef:
        return publish(self.store, kind, {"content": content}, inputs)

    def note(self, run: str, label: str, outputs: dict[str, ArtifactRef], **metrics: float) -> None:
        if run not in self.records.names():
            self.records.begin(run, {})
        stage = label.partition("-")[0]
        self.records.add(
            run,
            label,
            StageRecord(stage=stage, inputs={}, outputs=outputs, metrics=metrics, seconds=1.0, finished=""),
        )

    def collect(self, policy: Policy = NOW, delete: bool = True) -> Collection:
        return collect(self.store, policy, delete)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def test_named_artifacts_are_kept_with_their_lineage(world: World) -> None:
    """Kept by a run, a tag, a night or a pin. A dry run removes nothing, and new artifacts are kept."""
    problems = world.make("problems", "1")
    base = world.make("checkpoint", "base", problems=problems)
    kept = {
        "run": world.make("checkpoint", "tuned", checkpoint=base),
        "tag": world.make("checkpoint", "promoted"),
        "night": world.make("evaluation", "night"),
        "pin": world.make("traces", "pinned"),
    }
    sets, score = world.make("evaluation_sets", "sets"), world.make("evaluation", "score")
    unused = world.make("checkpoint", "unused", checkpoint=base)
    world.note("demo", "sft", {"checkpoint": kept["run"]})
    Tags(world.root).move(
        "promoted",
        Tagged(run="demo", checkpoint=kept["tag"], evaluation_sets=sets, evaluation=score, reason=""),
    )
    Nights(world.root).add(
        "latest.demo", Night(day="2026-11-01", checkpoint=kept["run"], evaluation=kept["night"])
    )
    Pins(world.root).set("mine", kept["pin"])
    assert [artifact.location for artifact in world.collect(delete=False).unreferenced] == [unused.location]
    assert world.collect(Policy()).young == [unused.location] and world.store.exists(unused)
    world.collect()
    assert not world.store.exists(unused)
    assert all(world.store.exists(ref) for ref in (problems, base, sets, score, *kept.values()))
    Pins(world.root).remove("mine")
    world.collect()
    assert not world.store.exists(kept["pin"])
    with pytest.raises(ValueError, match="pin 'mine': there is none; pins: none"):
        Pins(world.root).remove("mine")


def test_a_run_keeps_its_last_trainer_states_and_the_best(world: World) -> None:
    """A later checkpoint was made from an earlier state; that alone does not keep it."""
    states = [world.make("trainer_state", "0")]
    for number, accuracy in enumerate((0.3, 0.6, 0.5, 0.4), start=1):
        states.append(world.make("trainer_state", str(number)))
        tuned = world.make("checkpoint", f"rl {number}", trainer_state=states[-2])
        world.note(
            "demo", f"rl-{number}", {"checkpoint": tuned, "trainer_state": states[-1]}, accuracy=accuracy
        )
    world.collect(Policy(trainer_states=2, youngest=timedelta(0)))
    assert [world.store.exists(state) for state in states] == [False, False, True, True, True]
    world.collect()
    assert [world.store.exists(state) for state in states] == [False, False, True, False, True]


def test_a_living_stage_keeps_its_inputs_and_a_killed_one_does_not(world: World) -> None:
    held = world.make("checkpoint", "input of a stage that runs")
    script = (
        "import sys, time\nfrom tasks.shared.runs.leases import Leases\n"
        "from tasks.shared.artifacts import ArtifactRef\n"
        "ref = ArtifactRef('checkpoint', '0' * 64, sys.argv[2])\n"
        "with Leases(sys.argv[1]).hold('demo, sft', [ref]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, world.root, held.location]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stage:
        assert stage.stdout is not None and stage.stdout.readline() == "held\n"
        made = world.make("checkpoint", "published by it, and not yet noted")
        found = world.collect()
        assert (
            found.referenced[held.location][0] == found.referenced[made.location][0] == "running: demo, sft"
        )
        assert world.store.exists(held) and world.store.exists(made)
        os.kill(stage.pid, signal.SIGKILL)
    world.collect()
    assert world.store.locations() == [] and Leases(world.root).living() == []


def test_a_damaged_artifact_is_reported_and_kept(world: World) -> None:
    """Removing it would hide what happened."""
    ref = world.make("traces", "x")
    manifest = world.store.fetch(ref) / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    found = world.collect()
    assert list(found.damaged) == [ref.location] and world.store.exists(ref)


def test_on_an_object_store(bucket: str) -> None:
    world = World(bucket)
    kept, unused = world.make("traces", "kept"), world.make("traces", "unused")
    time.sleep(1.1)  # times are in whole seconds: an artifact as new as the lease would count as its own
    with Leases(bucket).hold("demo, sft", [kept]):
        world.collect()
        assert world.store.exists(kept) and not world.store.exists(unused)
    assert Leases(bucket).living() == [] and world.store.locations() == [kept.location]


def test_a_lease_that_is_given_back_meanwhile_hinders_nobody(world: World) -> None:
    """A dangling link stands for a lease that goes between the listing and the look at it."""
    with Leases(world.root).hold("demo, sft", []):
        (Path(world.root) / "live" / "gone.json").symlink_to("nowhere")
        assert [lease.holder for lease in Leases(world.root).living()] == ["demo, sft"]
