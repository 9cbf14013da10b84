"""What every committed figure names beside itself: date, commit, hardware; and medians of laps as a Markdown table."""

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def environment_versions() -> dict[str, str]:
    """Date, commit (marked where the tree differs from it) and processor; the GPU, or that none was seen."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD")
        + ("+" if _git("diff", "--stat", "HEAD", "--", "tasks") else ""),
        "hardware": f"{os.cpu_count()} x {_processor()}, {_gpu()}",
    }


def headline(about: dict[str, str], *more: str) -> str:
    """The first sentence under a table's title."""
    return ", ".join([about["date"], f"commit {about['commit']}", about["hardware"], *more]) + "."


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def write_page(name: str, lines: Sequence[str]) -> None:
    """benchmarks/results/`name`.md, and the same on the terminal."""
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join(lines) + "\n"
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
