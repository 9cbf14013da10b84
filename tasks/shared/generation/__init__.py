"""Sampling: the `Generator` protocol, its engines, and the loop that interleaves generation with live code."""
