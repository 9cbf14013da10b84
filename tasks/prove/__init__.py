"""Certificates: a score with everything that a reader needs to check it, without the model and without a GPU.

`certify.py` writes one from a store, `check.py` checks one. docs/evaluation.md describes the format.
"""
