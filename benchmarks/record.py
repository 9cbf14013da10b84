"""Options of a benchmark, and the page that it writes: figures beside date, commit and hardware."""

import argparse
import datetime
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def benchmark_options(description: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--dry", action="store_true", help="print the page, write nothing")
    return parser


def environment_versions() -> dict[str, str]:
    """Date, commit (marked where the tree differs from it) and processor; the GPU, or that none was seen."""
    changed = _git("diff", "--stat", "HEAD", "--", "tasks")
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if changed else ""),
        "hardware": f"{os.cpu_count()} x {_processor()}, {_gpu()}",
    }


def load_average() -> str:
    """How busy the machine was in the last minute."""
    return f"load average {os.getloadavg()[0]:.1f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def write_page(name: str, title: str, about: Sequence[str], lines: Sequence[str], dry: bool = False) -> None:
    """Print a page, and write it to benchmarks/results/`name`.md unless `dry`.

    Its first sentence has date, commit and hardware, and `about`: what else the figures depend on.
    """
    versions = environment_versions()
    headline = ", ".join([versions["date"], f"commit {versions['commit']}", versions["hardware"], *about])
    text = "\n".join([f"# {title}", "", f"{headline}.", *lines]) + "\n"
    if not dry:
        (RESULTS / f"{name}.md").write_text(text)
    print(text)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
