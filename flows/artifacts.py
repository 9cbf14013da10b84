"""Housekeeping of the artifact store: list, show, walk back, compare, verify, collect what nothing wants, pin.

An artifact is named by its location or the start of it (checkpoint/3f9c), the start of its digest, a tag (promoted), or
<run>/<stage>/<output> (demo/rl-2/checkpoint). A mistake ends in one line and exit code 2, damage in exit code 1.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from rich.console import Console

from flows import artifact_tables as tables
from tasks.shared.artifacts import ArtifactError, ArtifactRef, Manifest, Store
from tasks.shared.artifacts.lineage import lineage, made_from
from tasks.shared.collection import Policy, collect, wanted_locations
from tasks.shared.environment import store_uri
from tasks.shared.reporting.nights import what_changed
from tasks.shared.runs import RunRecords
from tasks.shared.tags import Pins, Tags

Answer = tuple[Any, Callable[[Console], None], int]  # JSON, how it is shown, exit code


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        content, show, code = options.answer(Store(options.store), options)
    except ValueError as error:
        sys.stderr.write(f"{str(error).splitlines()[0]}\n")
        return 2
    if options.json:
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        show(Console())
    return int(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tirflow artifacts", description=__doc__.split("\n\n")[0])
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument("--json", action="store_true", help="for programs")
    everywhere.add_argument("--store", default=store_uri(), help="directory or URI; by default TIRFLOW_STORE")
    commands = parser.add_subparsers(required=True)

    def command(name: str, answer: Callable[..., Answer], words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words, parents=[everywhere])
        made.set_defaults(answer=answer)
        return made

    ls = command("ls", _ls, "every artifact, the newest first, and who wants it")
    ls.add_argument("--kind", help="checkpoint, traces, ...")
    command("show", _show, "one artifact: files, metrics, provenance").add_argument("artifact")
    command("lineage", _lineage, "what an artifact was made from, back to the problems").add_argument(
        "artifact"
    )
    compare = command("compare", _compare, "what differs between two artifacts")
    compare.add_argument("before")
    compare.add_argument("after")
    verify = command("verify", _verify, "read every byte again")
    verify.add_argument("artifact", nargs="*", help="by default all")
    gc = command(
        "gc", _gc, "remove what no run, tag, night, pin or running stage wants; a dry run unless --delete"
    )
    gc.add_argument("--delete", action="store_true", help="remove it")
    gc.add_argument("--trainer-states", type=int, default=1, metavar="K", help="last K of each run are kept")
    gc.add_argument("--hours", type=float, default=24.0, help="what is younger is kept")
    pin = command("pin", _pin, "keep an artifact under a name whatever refers to it")
    pin.add_argument("name")
    pin.add_argument("artifact")
    command("unpin", _unpin, "take a pin away").add_argument("name")
    return parser


def find(store: Store, name: str) -> ArtifactRef:
    """The artifact of that name, see above. ValueError if there is none, or more than one."""
    run, _, rest = name.partition("/")
    label, _, output = rest.rpartition("/")
    if label and run in RunRecords(store.root).names():
        return RunRecords(store.root).read(run).output(label, output)
    tagged = Tags(store.root).current(name) if "/" not in name else None
    if tagged is not None:
        return tagged.checkpoint
    found = [
        path for path in store.locations() if path.startswith(name) or path.partition("/")[2].startswith(name)
    ]
    if len(found) != 1:
        some = (
            f"{len(found)} artifacts begin so: {', '.join(found[:3])}; write more of it"
            if found
            else "none such"
        )
        raise ValueError(f"artifact '{name}': {some} in {store.root}; see tirflow artifacts ls")
    return store.read(found[0]).ref


def _ls(store: Store, options: argparse.Namespace) -> Answer:
    manifests, damaged = {}, {}
    for location in store.locations():
        try:
            manifests[location] = store.read(location)
        except ArtifactError as error:
            damaged[location] = str(error)
    wanted = wanted_locations(store.root, manifests, Policy())
    chosen = [m for m in manifests.values() if options.kind in (None, m.kind)]
    chosen.sort(key=lambda manifest: manifest.created, reverse=True)
    rows = [_headline(manifest) | {"wanted_by": wanted.get(manifest.location, [])} for manifest in chosen]
    return (
        {"artifacts": rows, "damaged": damaged},
        lambda console: tables.ls(console, rows, damaged),
        int(bool(damaged)),
    )


def _headline(manifest: Manifest) -> dict[str, Any]:
    return {
        "location": manifest.location,
        "kind": manifest.kind,
        "stage": manifest.provenance.stage,
        "bytes": sum(entry.size for entry in manifest.files),
        "files": len(manifest.files),
        "created": manifest.created,
    }


def _show(store: Store, options: argparse.Namespace) -> Answer:
    ref = find(store, options.artifact)
    manifest = store.manifest(ref)
    users = [other.location for other in made_from(store, ref.location)]
    content = asdict(manifest) | {"location": ref.location, "place": store.describe(ref), "made_into": users}
    return content, lambda console: tables.show(console, content), 0


def _lineage(store: Store, options: argparse.Namespace) -> Answer:
    ref = find(store, options.artifact)
    found = lineage(store, ref)
    content = [
        _headline(manifest) | {"inputs": {name: i.location for name, i in manifest.provenance.inputs.items()}}
        if manifest
        else {"location": parent.location, "kind": parent.kind, "gone": True}
        for parent, manifest in found.items()
    ]
    return content, lambda console: tables.lineage(console, ref, found), 0


def _compare(store: Store, options: argparse.Namespace) -> Answer:
    before, after = (store.manifest(find(store, name)) for name in (options.before, options.after))
    old, new = ({entry.path: entry.sha256 for entry in manifest.files} for manifest in (before, after))
    metrics = {
        name: [before.metrics.get(name), after.metrics.get(name)]
        for name in before.metrics | after.metrics
        if before.metrics.get(name) != after.metrics.get(name)
    }
    content = {
        "before": before.location,
        "after": after.location,
        "equal_content": before.digest == after.digest,
        "provenance": what_changed(before, after),
        "files": {path: _change(old.get(path), new.get(path)) for path in sorted(old | new)},
        "metrics": metrics,
    }
    return content, lambda console: tables.compare(console, content), 0


def _change(before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return "added" if before is None else "removed"
    return "equal" if before == after else "changed"


def _verify(store: Store, options: argparse.Namespace) -> Answer:
    names = [find(store, name).location for name in options.artifact] or store.locations()
    damaged: dict[str, str] = {}
    for location in names:
        try:
            store.fetch(store.read(location).ref)
        except ArtifactError as error:
            damaged[location] = str(error)
    content = {"verified": len(names) - len(damaged), "damaged": damaged}
    return content, lambda console: tables.verify(console, len(names), damaged), int(bool(damaged))


def _gc(store: Store, options: argparse.Namespace) -> Answer:
    if options.trainer_states < 0 or options.hours < 0:
        raise ValueError("gc: --trainer-states and --hours must not be below 0")
    policy = Policy(options.trainer_states, timedelta(hours=options.hours))
    found = collect(store, policy, options.delete)
    content = asdict(found) | {"deleted": options.delete}
    return content, lambda console: tables.gc(console, found, options.delete), int(bool(found.damaged))


def _pin(store: Store, options: argparse.Namespace) -> Answer:
    ref = find(store, options.artifact)
    Pins(store.root).set(options.name, ref)
    return (
        {options.name: ref.location},
        lambda console: console.print(f"{options.name}: {ref.location} is kept"),
        0,
    )


def _unpin(store: Store, options: argparse.Namespace) -> Answer:
    Pins(store.root).remove(options.name)
    return {}, lambda console: console.print(f"{options.name}: no pin any more"), 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
