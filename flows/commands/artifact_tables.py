"""Tables and trees that `tirflow artifacts` prints for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from tasks.shared.artifacts import ArtifactRef, Manifest
from tasks.shared.runs.collection import Collection


def ls(console: Console, rows: Sequence[Mapping[str, Any]], damaged: Mapping[str, str]) -> None:
    """Print a row for each artifact."""
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
    console.print(f"{len(rows)} artifacts, {_size(sum(row['bytes'] for row in rows))}")
    _damage(console, damaged)


def show(console: Console, content: Mapping[str, Any]) -> None:
    """Print the manifest of an artifact."""
    made = content["provenance"]
    console.print(
        f"[bold]{content['location']}[/]  made by {made['stage']}, seed {made['seed']}, {content['created']}"
    )
    console.print(escape(content["place"]), soft_wrap=True)
    _pairs(console, "inputs", {name: ref["location"] for name, ref in made["inputs"].items()})
    _pairs(console, "files", {entry["path"]: _size(entry["size"]) for entry in content["files"]})
    _pairs(console, "metrics", content["metrics"])
    _pairs(console, "made into", dict.fromkeys(content["made_into"], ""))


def lineage(console: Console, ref: ArtifactRef, found: Mapping[ArtifactRef, Manifest | None]) -> None:
    """Print the ancestors of an artifact as a tree. An ancestor that is shown above is not expanded again."""
    shown: set[ArtifactRef] = set()

    def add(tree: Tree, ref: ArtifactRef, name: str) -> None:
        manifest = found[ref]
        origin = f"by {manifest.provenance.stage}" if manifest else "[red]no longer in the store[/]"
        again = ref in shown
        branch = tree.add(f"{name} [bold]{ref.location}[/] {origin}{' (above)' if again else ''}")
        shown.add(ref)
        if manifest and not again:
            for parent_name, parent in manifest.provenance.inputs.items():
                add(branch, parent, parent_name)

    root = Tree("", hide_root=True)
    add(root, ref, ref.kind)
    console.print(root)


def compare(console: Console, content: Mapping[str, Any]) -> None:
    """Print what differs between two artifacts."""
    console.print(f"{content['before']} -> {content['after']}")
    console.print("equal content" if content["equal_content"] else "other content")
    _pairs(console, "provenance", dict(line.split(": ", 1) for line in content["provenance"]))
    _pairs(console, "files", {path: change for path, change in content["files"].items() if change != "equal"})
    _pairs(console, "metrics", {name: f"{old} -> {new}" for name, (old, new) in content["metrics"].items()})


def verify(console: Console, count: int, damaged: Mapping[str, str]) -> None:
    """Print how many artifacts are intact, and the damage of the others."""
    console.print(f"{count - len(damaged)} of {count} artifacts are whole")
    _damage(console, damaged)


def gc(console: Console, found: Collection, deleted: bool) -> None:
    """Print the artifacts that nothing refers to."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("unwanted", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("created")
    for artifact in found.unreferenced:
        table.add_row(artifact.location, _size(artifact.size), artifact.created.replace("T", " ")[:16])
    if found.unreferenced:
        console.print(table)
    size = _size(sum(artifact.size for artifact in found.unreferenced))
    done = "removed" if deleted else "would be removed with --delete"
    kept = f"{len(found.referenced)} are wanted, {len(found.young)} young"
    console.print(f"{len(found.unreferenced)} artifacts, {size}, {done}; {kept}")
    _damage(console, found.damaged)


def _pairs(console: Console, title: str, pairs: Mapping[str, Any]) -> None:
    if not pairs:
        return
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 1))
    for name, value in pairs.items():
        table.add_row(escape(name), escape(str(value)))
    console.print(table)


def _damage(console: Console, damaged: Mapping[str, str]) -> None:
    for location, message in damaged.items():
        console.print(f"[red]damaged[/] {location}: {escape(message)}", soft_wrap=True)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
