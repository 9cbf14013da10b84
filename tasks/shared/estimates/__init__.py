"""Statistics of evaluations: estimates with intervals, the problem as the unit, and comparisons."""
