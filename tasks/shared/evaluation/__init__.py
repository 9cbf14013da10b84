"""Samples of evaluation sets with live code, graded: for the stage `evaluate` and for RL while it trains."""
