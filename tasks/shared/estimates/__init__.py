"""Statistics of evaluations: estimates with intervals, the problem as the unit, and comparisons."""

from tasks.shared.estimates.accuracy import Evaluation, Outcome, avg_at_k, maj_at_k, pass_at_k, variance_split
from tasks.shared.estimates.comparison import Comparison, SampleSize, compare, needed_samples
from tasks.shared.estimates.intervals import Estimate, Interval, bootstrap_interval, estimate, t_interval

__all__ = [
    "Comparison",
    "Estimate",
    "Evaluation",
    "Interval",
    "Outcome",
    "SampleSize",
    "avg_at_k",
    "bootstrap_interval",
    "compare",
    "estimate",
    "maj_at_k",
    "needed_samples",
    "pass_at_k",
    "t_interval",
    "variance_split",
]
