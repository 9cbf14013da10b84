"""`tirflow certify` and `tirflow check`: write a score as a file that others can check, and check such a file.

An evaluation is named by <run>/<checkpoint> (demo/rl), by a tag (that of its checkpoint), or like any artifact.
"""

import json
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.names import find_checkpoint, find_evaluation
from tasks.prove.certify import certify as write_certificate
from tasks.prove.evidence import open_evidence
from tasks.prove.findings import Row
from tasks.shared.artifacts import Store
from tasks.shared.contract.environment import store_uri
from tasks.shared.sandbox import SandboxUnavailable

REPORT_EVERY_S = 10.0  # between two lines of progress
MOST_SHOWN = 20  # differences below the table


def certify(store: Store, evaluation: str, against: Sequence[str], output: str) -> int:
    """Write the certificate of an evaluation, by default as `<name>.certificate.tar` in the working directory."""
    refs = {name: find_evaluation(store, name) for name in (*against, evaluation)}
    path = Path(output or f"{evaluation.replace('/', '-')}.certificate.tar").resolve()
    ref = refs.pop(evaluation)
    sha256 = write_certificate(store, ref, evaluation, refs, path)
    size = sum(part.stat().st_size for part in (path, *path.rglob("*")) if part.is_file())
    sys.stdout.write(f"{path}\n{size / 1e6:.1f} MB; to refer to this certificate, quote {sha256}\n")
    return 0


def check(file: Path, expected: str, checkpoint: str, sample: str, as_json: bool) -> int:
    """Check a certificate, and print what holds and what differs. Returns 1 if anything differs.

    With a `checkpoint`, a folder or an artifact's name, a share of the samples is drawn again.
    """
    share = share_of(sample)
    directory = find_checkpoint(Store(store_uri()), checkpoint)[0] if checkpoint else None
    with tempfile.TemporaryDirectory(prefix="tirflow-check-") as scratch:
        evidence = open_evidence(file, Path(scratch) / "certificate")
        from tasks.prove.check import check as find_rows  # torch takes seconds to import
        from tasks.prove.resample import sample_again

        report = Progress().report
        try:
            rows = find_rows(evidence, report, expected)
            if directory is not None:
                rows += sample_again(evidence, directory, share, secrets.randbits(32), report)
        except SandboxUnavailable as error:
            raise ValueError(f"programs of a certificate run only in the sandbox: {error}") from None
    if as_json:
        sys.stdout.write(json.dumps([row.to_json() for row in rows], indent=1) + "\n")
    else:
        show(Console(), rows)
    return int(not all(row.holds for row in rows))


def share_of(text: str) -> float:
    """Parse a share such as `5%` or `0.05`. Raises ValueError unless it is above 0 and at most 1."""
    number = text.strip()
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"--sample {text}: write a share such as 5% or 0.05")
    return share


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print the table, and the differences below it."""
    table = Table(box=None, padding=(0, 1))
    for column in ("what", "", "checked", "differ", "how"):
        justify: Literal["left", "right"] = "right" if column in ("checked", "differ") else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        holds = "[green]holds[/]" if row.holds else "[red]differs[/]"
        kinds = ", ".join(f"{kind} {count}" for kind, count in row.kinds.items())
        notes = "; ".join(part for part in (kinds, row.note) if part)
        table.add_row(row.what, holds, f"{row.checked:,}", str(len(row.differences) or ""), escape(notes))
    console.print(table)
    differences = [difference for row in rows for difference in row.differences]
    for difference in differences[:MOST_SHOWN]:
        line = f"{difference.where}: {difference.kind}"
        console.print(escape(f"{line}: {difference.detail}" if difference.detail else line), soft_wrap=True)
    if len(differences) > MOST_SHOWN:
        console.print(f"and {len(differences) - MOST_SHOWN} more: --json lists them")


class Progress:
    """Reports progress on stderr, at most every ten seconds."""

    def __init__(self) -> None:
        self._reported = time.monotonic()

    def report(self, line: str) -> None:
        """Write the line, unless another was written just before."""
        if time.monotonic() - self._reported >= REPORT_EVERY_S:
            self._reported = time.monotonic()
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
