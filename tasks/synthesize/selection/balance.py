"""Balanced selection: the same number of traces for each source and number of calls, as far as there are enough.

Within such a cell problems alternate, ordered by a hash of the trace's id. So the choice depends neither on the order
of the traces nor on a random source.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from tasks.synthesize.traces import Checked, Reason

Cell = tuple[str, int]


def balance(checked: Sequence[Checked], most_traces: int) -> list[Checked]:
    """Reject as SURPLUS what goes beyond `most_traces`, evenly over sources and numbers of calls."""
    cells: dict[Cell, list[str]] = defaultdict(list)
    for written, verdict in _in_turns([entry for entry in checked if entry[1].accepted]):
        cells[(written.problem.source, len(verdict.block_status))].append(written.id)
    sizes = {cell: len(ids) for cell, ids in cells.items()}
    taken = {name for cell, count in shares(sizes, most_traces).items() for name in cells[cell][:count]}
    return [
        (written, verdict)
        if not verdict.accepted or written.id in taken
        else (written, replace(verdict, reason=Reason.SURPLUS, detail=f"{most_traces} others were taken"))
        for written, verdict in checked
    ]


def shares(sizes: dict[Cell, int], total: int) -> dict[Cell, int]:
    """The number of traces to take from each cell: at most its size, `total` in all if possible, as equal as possible.

    Example: sizes 1, 4 and 9, total 9 give 1, 4 and 4.
    """
    taken: dict[Cell, int] = {}
    for place, cell in enumerate(sorted(sizes, key=lambda cell: (sizes[cell], cell))):
        left = len(sizes) - place
        taken[cell] = min(sizes[cell], (total - sum(taken.values())) // left)
    return taken


def _in_turns(checked: Sequence[Checked]) -> list[Checked]:
    """Every problem's first trace before any problem's second; ties by hash."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, int, Checked]] = []
    for entry in sorted(checked, key=lambda entry: sha256(entry[0].id.encode()).digest()):
        problem = entry[0].problem.id
        ranked.append((seen[problem], len(ranked), entry))
        seen[problem] += 1
    return [entry for _, _, entry in sorted(ranked, key=lambda item: item[:2])]
