"""`tirflow plan`: lay a recipe out on GPUs, with the memory on each and the time of a step; or list what would run.

    tirflow plan retool --gpus 32 --memory-gib 139.8 [--gpu h200] [--set generation.max_sequences=128] [--json]
    tirflow plan retool --gpus 32 --memory-gib 139.8 --as-written
    tirflow plan tiny --run demo                          # the stages that would run: dry_run.py

Chooses the fastest layout that fits (`layouts.py`), and prints its changes to the recipe. With --as-written the recipe
is used unchanged, and every GPU outside its pool is a rank. With rl.staleness, in the recipe or as an option, steps are
asynchronous. Prints tables, or JSON. The exit code is 2 if no layout fits, an input is missing or the recipe is wrong.
"""

import json
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from data.gpus import Gpu, find_gpu, gpu_of_memory
from flows.planning.layouts import Layout, choose, gib, lay_out, work_of
from flows.planning.memory import GIB, Memory
from flows.planning.published import deviations
from flows.planning.seconds import Work, assumptions
from tasks.recipes import load_recipe

SHOWN_LAYOUTS = 8


def tell(
    recipe: str,
    run: str,
    gpus: int,
    memory_gib: float,
    changes: list[str],
    as_json: bool,
    kind: str = "",
    as_written: bool = False,
    staleness: int | None = None,
    mean_tokens: float = 0.0,
    tail: float = 5.0,
    call_seconds: float = 1.0,
) -> int:
    """Print the plan of a recipe with `changes` (key=value each). Returns the exit code, 2 if it cannot run so."""
    given = dict(read_override(text) for text in changes)
    fixed = {"rl.staleness": staleness} if as_written and staleness is not None else {}
    resolved = load_recipe(recipe, given | fixed)
    if run:
        from flows.planning.dry_run import print_dry_run  # Prefect takes seconds to import

        return print_dry_run(resolved, run, as_json)
    gpu, memory = _gpu(gpus, memory_gib, kind)
    work = work_of(resolved, mean_tokens, tail, call_seconds)
    if as_written:
        layouts = [lay_out(resolved, gpus, memory, gpu, work)]
    else:
        layouts = choose(resolved, gpus, memory, gpu, work, given, staleness)
    refusal = layouts[0].refusal()
    if as_json:
        rows = [
            {"layout": layout.name, "changes": layout.changes, "refusal": layout.refusal()} | _times(layout)
            for layout in layouts
        ]
        more = {"refusal": refusal, "layouts": rows, "assumptions": assumptions(work, gpu)}
        sys.stdout.write(json.dumps(_as_json(layouts[0]) | more, indent=2) + "\n")
    else:
        _show(layouts, work, gpu, Console())
    if refusal is not None:
        sys.stderr.write(refusal + "\n")
        return 2
    return 0


def _gpu(gpus: int, memory_gib: float, kind: str) -> tuple[Gpu, int]:
    """Return the kind of GPU and its usable bytes. If only one of them is given, it implies the other."""
    if gpus < 1 or not (memory_gib > 0 or kind):
        raise ValueError("plan: give --run NAME, or --gpus and --memory-gib (or --gpu), both above 0")
    gpu = find_gpu(kind) if kind else gpu_of_memory(memory_gib)
    return gpu, int((memory_gib or gpu.memory_gib) * GIB)


def read_override(text: str) -> tuple[str, Any]:
    """Parse `key=value`. The value is TOML if possible, else text without quotes."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set '{text}': write key=value")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _as_json(layout: Layout) -> dict[str, Any]:
    tree = asdict(layout)
    for phase, entry in zip(layout.phases, tree["phases"], strict=True):
        entry["memory"]["total"] = phase.memory.total
    return tree | {"layout": layout.name} | _times(layout)


def _times(layout: Layout) -> dict[str, float | None]:
    """Return the seconds of a step, also for asynchronous steps if the sampler has GPUs of its own."""
    assert layout.seconds is not None
    apart = round(layout.seconds.asynchronous, 1) if layout.sampling_gpus else None
    return {"synchronous_s": round(layout.seconds.synchronous, 1), "asynchronous_s": apart}


def _show(layouts: Sequence[Layout], work: Work, kind: Gpu, console: Console) -> None:
    layout = layouts[0]
    console.print(
        f"{layout.recipe}: {layout.parameters / 1e6:,.1f} M parameters, {layout.gpus} GPUs of {gib(layout.gpu)} GiB"
    )
    console.print(_layout_table(layouts))
    if layout.changes:
        console.print(
            f"{layout.name} sets: " + " ".join(f"{key}={value}" for key, value in layout.changes.items())
        )
    console.print(_memory_table(layout))
    if layout.host:
        console.print(
            f"Host memory: {gib(layout.host)} GiB on each host that trains, for the offloaded optimizer"
        )
    if layout.sft_tokens_per_step:
        console.print(f"SFT step: {layout.sft_tokens_per_step:,} tokens")
    console.print(
        f"RL step: {layout.trajectories_per_step:,} trajectories, at most {layout.tokens_per_step:,} tokens, "
        f"{layout.rows_per_rank:,} micro-batches on each GPU that trains"
    )
    for saved in layout.saved:
        console.print(
            f"{saved.stage} writes {saved.size / 1e9:,.0f} GB to resume from every {saved.every_steps} steps, "
            f"{saved.size / layout.gpus / 1e9:,.1f} GB a GPU; twice that must find room"
        )
    if layout.sampling is not None:
        console.print(
            f"vLLM on each GPU that samples: {layout.sampling.bytes_per_token / 1024:.0f} KiB of keys and values a "
            f"token, {layout.sampling.sequences} sequences of the largest length at once in each engine"
        )
    console.print(_assumption_table(work, kind))


def _layout_table(layouts: Sequence[Layout]) -> Table:
    """Show the best layouts, and those that do not fit if there is room."""
    table = Table(title="Layouts, the one taken first; seconds are estimates")
    for name in ("layout", "fits", "sample s", "train s", "step s", "asynchronous s", "GPU hours of RL"):
        table.add_column(name, justify="left" if name == "layout" else "right")
    for layout in layouts[:SHOWN_LAYOUTS]:
        seconds, times = layout.seconds, _times(layout)
        assert seconds is not None
        hours = layout.step_s * layout.steps * layout.gpus / 3600
        table.add_row(
            layout.name,
            "[green]yes[/]" if layout.refusal() is None else "[red]no[/]",
            f"{seconds.sample:,.0f}",
            f"{seconds.train:,.0f}",
            f"{seconds.synchronous:,.0f}",
            f"{times['asynchronous_s']:,.0f}" if layout.sampling_gpus else "",
            f"{hours:,.0f}",
        )
    return table


def _memory_table(layout: Layout) -> Table:
    names = [field.name for field in fields(Memory)]
    used = [name for name in names if any(getattr(phase.memory, name) for phase in layout.phases)]
    table = Table()
    table.add_column("GiB on each")
    for phase in layout.phases:
        table.add_column(phase.name, justify="right")
    for name in used:
        table.add_row(name, *(gib(getattr(phase.memory, name)) for phase in layout.phases))
    table.add_section()
    table.add_row("total", *(gib(phase.memory.total) for phase in layout.phases))
    table.add_row("fits", *("[green]yes[/]" if layout.fits(p) else "[red]no[/]" for p in layout.phases))
    return table


def _assumption_table(work: Work, kind: Gpu) -> Table:
    """Show the assumptions of the estimate, and how it compares with published times of a step."""
    table = Table(
        title="Seconds assume (options: --mean-tokens, --tail, --call-seconds, --gpu)", show_header=False
    )
    for name, value in assumptions(work, kind).items():
        table.add_row(name, value)
    for found in deviations():
        table.add_row(
            found.name,
            f"published {found.published:.0f} s, this estimate {found.estimated:.0f} ({found.share:+.0%})",
        )
    return table
