"""Housekeeping of the artifact store: list, show, lineage, compare, verify, remove what nothing refers to, pin.

`flows/names.py` says how an artifact is named. A mistake ends in one line and exit code 2, damage in exit code 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from flows.names import find
from tasks.shared.artifacts import ArtifactError, ArtifactRef, Manifest, Store
from tasks.shared.artifacts.lineage import lineage, made_from
from tasks.shared.reporting.nights import what_changed
from tasks.shared.runs.collection import Policy, collect, read_all, references
from tasks.shared.runs.tags import Pins

Answer = tuple[Any, Callable[[Console], None], int]  # JSON, function that prints for people, exit code


def ls(store: Store, kind: str | None = None) -> Answer:
    """List every artifact, or those of a kind, the newest first, and what refers to it."""
    manifests, damaged = read_all(store)
    found = references(store.root, manifests, Policy())
    chosen = [m for m in manifests.values() if kind in (None, m.kind)]
    chosen.sort(key=lambda manifest: manifest.created, reverse=True)
    rows = [_headline(manifest) | {"wanted_by": found.get(manifest.location, [])} for manifest in chosen]

    def show(console: Console) -> None:
        table = Table(box=None, padding=(0, 1))
        table.add_column("artifact", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("created", no_wrap=True)
        table.add_column("wanted by", overflow="fold")
        for row in rows:
            created = row["created"].replace("T", " ")[5:16]
            wanted_by = ", ".join(dict.fromkeys(row["wanted_by"])) or "[yellow]nobody[/]"
            table.add_row(row["location"], _size(row["bytes"]), created, wanted_by)
        console.print(table)
        size = _size(sum(row["bytes"] for row in rows))
        console.print(f"{len(rows)} artifacts, {size}, in {escape(store.root)}", soft_wrap=True)
        _show_damage(console, damaged)

    return {"artifacts": rows, "damaged": damaged}, show, int(bool(damaged))


def _headline(manifest: Manifest) -> dict[str, Any]:
    return {
        "location": manifest.location,
        "kind": manifest.kind,
        "stage": manifest.provenance.stage,
        "bytes": sum(entry.size for entry in manifest.files),
        "files": len(manifest.files),
        "created": manifest.created,
    }


def show(store: Store, artifact: str) -> Answer:
    """Show an artifact: files, metrics, provenance, and what was made from it."""
    ref, _ = find(store, artifact)
    manifest = store.manifest(ref)
    users = [other.location for other in made_from(store, ref.location)]
    place, made = store.describe(ref), manifest.provenance

    def show(console: Console) -> None:
        console.print(f"[bold]{ref.location}[/]  made by {made.stage}, seed {made.seed}, {manifest.created}")
        console.print(escape(place), soft_wrap=True)
        _show_pairs(console, "inputs", {name: parent.location for name, parent in made.inputs.items()})
        _show_pairs(console, "files", {entry.path: _size(entry.size) for entry in manifest.files})
        _show_pairs(console, "metrics", manifest.metrics)
        _show_pairs(console, "made into", dict.fromkeys(users, ""))

    return asdict(manifest) | {"location": ref.location, "place": place, "made_into": users}, show, 0


def walk_back(store: Store, artifact: str) -> Answer:
    """Show what an artifact was made from, back to the problems."""
    root, _ = find(store, artifact)
    found = lineage(store, root)
    content = [
        _headline(manifest) | {"inputs": {name: i.location for name, i in manifest.provenance.inputs.items()}}
        if manifest
        else {"location": parent.location, "kind": parent.kind, "gone": True}
        for parent, manifest in found.items()
    ]
    shown: set[ArtifactRef] = set()

    def add(tree: Tree, ref: ArtifactRef, name: str) -> None:
        """Add an ancestor. One that is shown above is not expanded again."""
        manifest, again = found[ref], ref in shown
        origin = f"by {manifest.provenance.stage}" if manifest else "[red]no longer in the store[/]"
        branch = tree.add(f"{name} [bold]{ref.location}[/] {origin}{' (above)' if again else ''}")
        shown.add(ref)
        for parent_name, parent in manifest.provenance.inputs.items() if manifest and not again else ():
            add(branch, parent, parent_name)

    def show(console: Console) -> None:
        tree = Tree("", hide_root=True)
        add(tree, root, root.kind)
        console.print(tree)

    return content, show, 0


def compare(store: Store, before: str, after: str) -> Answer:
    """Show what differs between two artifacts."""
    first, second = (store.manifest(find(store, name)[0]) for name in (before, after))
    old, new = ({entry.path: entry.sha256 for entry in manifest.files} for manifest in (first, second))
    files = {path: _change(old.get(path), new.get(path)) for path in sorted(old | new)}
    provenance = what_changed(first, second)
    metrics = {
        name: [first.metrics.get(name), second.metrics.get(name)]
        for name in first.metrics | second.metrics
        if first.metrics.get(name) != second.metrics.get(name)
    }
    content = {
        "before": first.location,
        "after": second.location,
        "equal_content": first.digest == second.digest,
        "provenance": provenance,
        "files": files,
        "metrics": metrics,
    }

    def show(console: Console) -> None:
        console.print(f"{first.location} -> {second.location}")
        console.print("equal content" if first.digest == second.digest else "other content")
        _show_pairs(console, "provenance", dict(line.split(": ", 1) for line in provenance))
        _show_pairs(console, "files", {path: how for path, how in files.items() if how != "equal"})
        _show_pairs(console, "metrics", {name: f"{a} -> {b}" for name, (a, b) in metrics.items()})

    return content, show, 0


def _change(before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return "added" if before is None else "removed"
    return "equal" if before == after else "changed"


def verify(store: Store, artifacts: Sequence[str]) -> Answer:
    """Read every byte again, of all artifacts if none is named. The exit code is 1 for damage."""
    names = [find(store, name)[0].location for name in artifacts] or store.locations()
    damaged: dict[str, str] = {}
    for location in names:
        try:
            store.fetch(store.read(location).ref)
        except ArtifactError as error:
            damaged[location] = str(error)
    whole = len(names) - len(damaged)

    def show(console: Console) -> None:
        console.print(f"{whole} of {len(names)} artifacts are whole")
        _show_damage(console, damaged)

    return {"verified": whole, "damaged": damaged}, show, int(bool(damaged))


def gc(store: Store, delete: bool, trainer_states: int, hours: float) -> Answer:
    """List what nothing refers to, and remove it with `delete`. Raises ValueError for impossible numbers."""
    if trainer_states < 0 or not 0 <= hours <= 1e6:
        raise ValueError("gc: --trainer-states and --hours must not be below 0, and hours at most a million")
    found = collect(store, Policy(trainer_states, timedelta(hours=hours)), delete)

    def show(console: Console) -> None:
        table = Table(box=None, padding=(0, 1))
        table.add_column("unwanted", overflow="fold")
        table.add_column("size", justify="right")
        table.add_column("created")
        for artifact in found.unreferenced:
            table.add_row(artifact.location, _size(artifact.size), artifact.created.replace("T", " ")[:16])
        if found.unreferenced:
            console.print(table)
        size = _size(sum(artifact.size for artifact in found.unreferenced))
        done = "removed" if delete else "would be removed with --delete"
        kept = f"{len(found.referenced)} are wanted, {len(found.young)} young"
        console.print(f"{len(found.unreferenced)} artifacts, {size}, {done}; {kept}")
        _show_damage(console, found.damaged)

    content = asdict(found) | {"deleted": delete}
    published = {"wanted": content.pop("referenced"), "unwanted": content.pop("unreferenced")}
    return content | published, show, int(bool(found.damaged))


def pin(store: Store, name: str, artifact: str) -> Answer:
    """Keep an artifact under a name whatever refers to it."""
    ref, _ = find(store, artifact)
    Pins(store.root).set(name, ref)
    return {name: ref.location}, lambda console: console.print(f"{name}: {ref.location} is kept"), 0


def unpin(store: Store, name: str) -> Answer:
    """Remove a pin."""
    Pins(store.root).remove(name)
    return {}, lambda console: console.print(f"{name}: pin removed"), 0


def _show_pairs(console: Console, title: str, pairs: Mapping[str, Any]) -> None:
    if not pairs:
        return
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 1))
    for name, value in pairs.items():
        table.add_row(escape(name), escape(str(value)))
    console.print(table)


def _show_damage(console: Console, damaged: Mapping[str, str]) -> None:
    for location, message in damaged.items():
        console.print(f"[red]damaged[/] {location}: {escape(message)}", soft_wrap=True)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
