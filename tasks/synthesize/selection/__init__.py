"""Selection of verified traces: see `select.py` for the filters and their order."""

from tasks.synthesize.selection.difficulty import rate_of, read_pass_rates
from tasks.synthesize.selection.judging import Judge, Vote
from tasks.synthesize.selection.select import References, select

__all__ = ["Judge", "References", "Vote", "rate_of", "read_pass_rates", "select"]
