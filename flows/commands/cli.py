"""The command `tirflow`. `tirflow --help` lists its subcommands.

The module of a subcommand is imported when that runs, since Prefect takes seconds to import. Each function returns its
exit code. A user's mistake ends in one line and code 2.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import httpx
import typer
from typer.exceptions import TyperException

from flows.commands.artifact_commands import commands as artifact_commands

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Post-training of language models for tool-integrated reasoning.",
)
app.add_typer(artifact_commands, name="artifacts", short_help="List, compare, verify, remove artifacts.")
Changes = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE changes a key of the recipe.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def _recipes(begun: str) -> list[str]:
    """List the names of recipes that begin so."""
    from tasks.recipes import RECIPES_DIR

    return sorted(path.stem for path in RECIPES_DIR.glob(f"{begun}*.toml"))


RecipeName = Annotated[str, typer.Argument(help="A recipe's name or file.", autocompletion=_recipes)]


@app.command()
def demo() -> int:
    """Run the whole pipeline on this machine: follow `train/tiny` to its scores. Leaves nothing running."""
    from flows.commands import local

    return local.demo()


@app.command()
def up() -> int:
    """Start a Prefect server and a worker with all deployments. They run until `tirflow down`."""
    from flows.commands import local

    return local.up()


@app.command()
def down() -> int:
    """End server and worker."""
    from flows.commands import local

    return local.down()


@app.command()
def env() -> int:
    """Print shell lines that point Prefect's own commands at the local server: eval "$(tirflow env)"."""
    from flows.commands import local

    return local.env()


@app.command()
def deploy() -> int:
    """Bring the local server's deployments in line with prefect.yaml."""
    from flows.commands import local

    return local.deploy()


@app.command()
def run(
    deployment: Annotated[str, typer.Argument(help="train/tiny, sft/local, ...")],
    parameters: Annotated[
        list[str] | None, typer.Argument(help="name=value each; overrides.KEY=value changes a recipe's key.")
    ] = None,
) -> int:
    """Start a deployment's run and follow it. Finished stages are reused."""
    from flows.commands import local

    return local.run(deployment, parameters or [])


@app.command()
def plan(
    recipe: RecipeName,
    run: Annotated[
        str, typer.Option(help="Stage by stage: cached, will run and why, or missing input.")
    ] = "",
    gpus: Annotated[int, typer.Option(min=0, help="Over all hosts, which have 8 each.")] = 0,
    memory_gib: Annotated[float, typer.Option(min=0, max=1e6, help="Usable memory of one GPU.")] = 0.0,
    gpu: Annotated[
        str, typer.Option(help="Its kind, a name in data/gpus.toml; else the one with that memory.")
    ] = "",
    as_written: Annotated[
        bool, typer.Option("--as-written", help="The recipe as it is, no other layout.")
    ] = False,
    staleness: Annotated[
        int | None, typer.Option(help="In place of the recipe's rl.staleness; above 0: asynchronous steps.")
    ] = None,
    mean_tokens: Annotated[float, typer.Option(help="Of a response; else a third of the largest.")] = 0.0,
    tail: Annotated[float, typer.Option(help="99th percentile of responses over their median.")] = 5.0,
    call_seconds: Annotated[float, typer.Option(help="Of a call of the interpreter.")] = 1.0,
    changes: Changes = None,
    as_json: Json = False,
) -> int:
    """Show what a recipe would do under a run's name, or its fastest layout on GPUs with memory and times."""
    from flows.commands import plan

    return plan.tell(
        recipe,
        run,
        gpus,
        memory_gib,
        changes or [],
        as_json,
        kind=gpu,
        as_written=as_written,
        staleness=staleness,
        mean_tokens=mean_tokens,
        tail=tail,
        call_seconds=call_seconds,
    )


Checkpoint = Annotated[
    str,
    typer.Argument(
        help="An artifact's location or digest, a tag (promoted), RUN/STAGE (demo/rl-2), a folder."
    ),
]
OfRecipe = Annotated[
    str,
    typer.Option(
        "--recipe", help="How it is asked; by default as its run evaluates.", autocompletion=_recipes
    ),
]
Engine = Annotated[str, typer.Option(help="transformers or vllm, in place of the recipe's.")]


@app.command()
def ask(
    checkpoint: Checkpoint,
    question: Annotated[str, typer.Argument(help="Without one: a conversation.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="More than one: their vote.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Of the first sample; the next has the next one.")] = None,
    recipe: OfRecipe = "",
    engine: Engine = "",
    changes: Changes = None,
) -> int:
    """Ask a checkpoint, with code that runs while it answers."""
    from flows.commands.serving import run_on_checkpoint

    given = {"question": question, "samples": samples, "seed": seed}
    return run_on_checkpoint("ask", checkpoint, recipe, engine, changes or [], **given)


@app.command()
def serve(
    checkpoint: Checkpoint,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Another than this machine's own needs TIRFLOW_API_KEY.")
    ] = "127.0.0.1",
    recipe: OfRecipe = "",
    engine: Engine = "",
    changes: Changes = None,
) -> int:
    """Serve a checkpoint over OpenAI's API, with code that runs while it answers, and a page to try it."""
    from flows.commands.serving import run_on_checkpoint

    return run_on_checkpoint("serve", checkpoint, recipe, engine, changes or [], host=host, port=port)


@app.command()
def recipes(recipe: Annotated[str, typer.Argument(autocompletion=_recipes)] = "") -> int:
    """List every recipe with its description, or print one with all its values as JSON."""
    from rich.console import Console
    from rich.table import Table

    from tasks.recipes import load_recipe

    if recipe:
        sys.stdout.write(load_recipe(recipe).model_dump_json(indent=2) + "\n")
        return 0
    table = Table(box=None, padding=(0, 1), show_header=False)
    for name in _recipes(""):
        table.add_row(name, load_recipe(name).description)
    Console().print(table)
    return 0


@app.command()
def certify(
    evaluation: Annotated[str, typer.Argument(help="RUN/base, RUN/sft, RUN/rl, a tag, or an artifact.")],
    against: Annotated[
        list[str] | None, typer.Option(help="An evaluation that it is compared with; may be repeated.")
    ] = None,
    output: Annotated[str, typer.Option(help="A .tar, or a folder; EVALUATION.certificate.tar.")] = "",
) -> int:
    """Write a score, with everything that others need to check it, into one file."""
    from flows.commands import prove
    from tasks.shared.artifacts import Store
    from tasks.shared.contract.environment import store_uri

    return prove.certify(Store(store_uri()), evaluation, against or [], output)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="What certify wrote.")],
    expect: Annotated[str, typer.Option(help="The sha256 that certify printed.")] = "",
    checkpoint: Annotated[
        str, typer.Option(help="Its checkpoint, a folder or an artifact: draw again.")
    ] = "",
    sample: Annotated[str, typer.Option(help="How much is drawn again, with --checkpoint.")] = "5%",
    as_json: Json = False,
) -> int:
    """Check a certificate: run its programs and grade again, without model and GPU. Code 1 if anything differs."""
    from flows.commands import prove

    return prove.check(file, expect, checkpoint, sample, as_json)


@app.command()
def publish(
    artifact: Annotated[str, typer.Argument(help="A checkpoint, adapter, traces or rollouts.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub that HF_ENDPOINT names.")],
    licence: Annotated[str, typer.Option(help="As hubs name it: apache-2.0.")] = "",
    evaluation: Annotated[str, typer.Option(help="That the card speaks of; by default the newest.")] = "",
    against: Annotated[list[str] | None, typer.Option(help="An evaluation that it is compared with.")] = None,
    without_evaluation: Annotated[bool, typer.Option("--without-evaluation", help="No scores.")] = False,
    without_certificate: Annotated[
        bool, typer.Option("--without-certificate", help="Its problems may not be passed on.")
    ] = False,
    base: Annotated[str, typer.Option(help="An adapter's base on the hub.")] = "",
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    dry_run: Annotated[str, typer.Option(help="Write this folder and send nothing.")] = "",
) -> int:
    """Upload an artifact to a hub, with a card of its origin and its scores. The token is HF_TOKEN."""
    from flows.commands import publishing
    from tasks.shared.artifacts import Store
    from tasks.shared.contract.environment import store_uri

    return publishing.publish(
        Store(store_uri()),
        artifact,
        repo,
        licence,
        evaluation,
        against or [],
        without_evaluation,
        without_certificate,
        base,
        private,
        dry_run,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, by default with the arguments of this process. Returns its exit code."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(args=arguments, prog_name="tirflow", standalone_mode=False)
    except TyperException as error:
        message = error.format_message().rstrip(".")
        # without a command the help is printed
        return _mistake(f"{message}. See tirflow --help.") if message else 2
    except (ValueError, OSError, httpx.HTTPError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        return _mistake("; ".join(lines or [type(error).__name__]) + _remedy(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("stopped\n")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    return code if isinstance(code, int) else 0


def _mistake(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 2


def _remedy(error: Exception) -> str:
    """Name the variable behind a path that cannot be used; "" for other errors."""
    from tasks.shared.contract.environment import home, store_uri

    path = str(getattr(error, "filename", None) or "")
    for variable, place in (("TIRFLOW_STORE", store_uri()), ("TIRFLOW_HOME", str(home()))):
        if path.startswith(place):
            return f"; {variable} = {place} must be a directory that can be written and has room"
    return ""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
