"""One self-contained HTML file: template, style and viewer inlined, no network, no script but the viewer's own.

A content security policy allows exactly the inlined style and script by their hashes. Texts are escaped by Jinja2,
traces are embedded by `embedding.py`: nothing that a model wrote can run or fetch anything.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.report.embedding import json_in_html, select, trace_chunks, trace_index
from tasks.shared.reporting.samples import Sample

PAGE_DIR = Path(__file__).with_name("template")
SCRIPTS = ("traces.js", "pane.js", "viewer.js")
MOST_TRACES = 10_000
MOST_TOKENS = 6_000_000  # about 30 MB


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts. The columns in `numeric` are aligned right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with its interval and its verdict: "", "better" or "worse"."""

    value: str
    detail: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class SetSection:
    """The headline of one evaluation set."""

    name: str
    caption: str
    scores: Sequence[tuple[str, Sequence[Cell]]]  # checkpoint and its cells
    score_columns: Sequence[str]
    comparisons: Sequence[tuple[str, Sequence[Cell]]]
    charts: Sequence[Markup]
    remarks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Strip:
    """The samples of one problem under one checkpoint: R right, W wrong, V void."""

    cells: str
    label: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything a report shows, in order."""

    title: str
    subtitle: str
    warnings: Sequence[str]
    sets: Sequence[SetSection]
    curves: Sequence[tuple[str, Sequence[Markup]]]
    tables: Sequence[Table]
    checkpoints: Sequence[str] = ()
    strips: Sequence[tuple[str, str, Sequence[Strip]]] = ()  # set, problem id, a strip for each checkpoint
    evaluations: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    # rejected traces, rollouts: all shown
    written: Mapping[str, Sequence[Sample]] = field(default_factory=dict)


def render(page: Page) -> str:
    """Return the HTML document."""
    chosen = select(page.evaluations, MOST_TRACES, MOST_TOKENS)
    shown = {**chosen, **page.written}
    style = (PAGE_DIR / "report.css").read_text(encoding="utf-8")
    script = "\n".join((PAGE_DIR / name).read_text(encoding="utf-8") for name in SCRIPTS)
    context: dict[str, Any] = {
        "page": page,
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "index": json_in_html(trace_index(shown)) if any(shown.values()) else None,
        "chunks": trace_chunks(shown),
        "num_shown": _count(chosen),
        "num_traces": _count(page.evaluations),
    }
    environment = Environment(
        loader=FileSystemLoader(PAGE_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(context)


def _count(groups: Mapping[str, Sequence[Sample]]) -> int:
    return sum(map(len, groups.values()))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
