"""`tirflow artifacts ...`: the command line of `artifacts.py`, which each command imports when it runs."""

import json
import sys
from typing import Annotated

import typer

commands = typer.Typer(
    no_args_is_help=True,
    help=(
        "List, compare, verify and remove artifacts. One is named by its location or the start of it "
        "(checkpoint/3f9c), the start of its digest, a tag (promoted), or RUN/STAGE/OUTPUT (demo/rl-2/checkpoint)."
    ),
)
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
StorePlace = Annotated[
    str, typer.Option("--store", help="Directory or URI of the store; by default TIRFLOW_STORE.")
]
Artifact = Annotated[str, typer.Argument(help="See above.")]


def _tell(command: str, store: str, as_json: bool, *arguments: object) -> int:
    """Print the answer of a command. Returns its exit code."""
    from rich.console import Console

    from flows.commands import artifacts
    from tasks.shared.artifacts import Store
    from tasks.shared.contract.environment import store_uri

    content, show, code = getattr(artifacts, command)(Store(store or store_uri()), *arguments)
    if as_json:
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        show(Console())
    return int(code)


@commands.command()
def ls(
    kind: Annotated[str | None, typer.Option(help="checkpoint, traces, ...")] = None,
    store: StorePlace = "",
    as_json: Json = False,
) -> int:
    """Every artifact, the newest first, and who wants it."""
    return _tell("ls", store, as_json, kind)


@commands.command()
def show(artifact: Artifact, store: StorePlace = "", as_json: Json = False) -> int:
    """One artifact: files, metrics, provenance."""
    return _tell("show", store, as_json, artifact)


@commands.command()
def lineage(artifact: Artifact, store: StorePlace = "", as_json: Json = False) -> int:
    """What an artifact was made from, back to the problems."""
    return _tell("walk_back", store, as_json, artifact)


@commands.command()
def compare(before: Artifact, after: Artifact, store: StorePlace = "", as_json: Json = False) -> int:
    """What differs between two artifacts."""
    return _tell("compare", store, as_json, before, after)


@commands.command()
def verify(
    artifacts: Annotated[list[str] | None, typer.Argument(help="By default all.")] = None,
    store: StorePlace = "",
    as_json: Json = False,
) -> int:
    """Read every byte again."""
    return _tell("verify", store, as_json, artifacts or [])


@commands.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove it.")] = False,
    trainer_states: Annotated[int, typer.Option(help="So many last ones of each run are kept.")] = 1,
    hours: Annotated[float, typer.Option(help="What is younger is kept.")] = 24.0,
    store: StorePlace = "",
    as_json: Json = False,
) -> int:
    """Remove what no run, tag, night, pin or running stage wants; a dry run unless --delete."""
    return _tell("gc", store, as_json, delete, trainer_states, hours)


@commands.command()
def pin(name: str, artifact: Artifact, store: StorePlace = "", as_json: Json = False) -> int:
    """Keep an artifact under a name whatever refers to it."""
    return _tell("pin", store, as_json, name, artifact)


@commands.command()
def unpin(name: str, store: StorePlace = "", as_json: Json = False) -> int:
    """Take a pin away."""
    return _tell("unpin", store, as_json, name)
