"""Traces: the dialect they are written in, and the trajectory record of token ids that training uses."""
