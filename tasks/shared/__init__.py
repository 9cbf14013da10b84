"""What stages share; it knows none of them. Read first: `traces`, `generation`, `learning`.

traces      how a trace is written (`dialect.py`), and token ids with their mask (`trajectory.py`)
generation  sampling: the `Generator` protocol, its engines, and the loop with live code (`interleave.py`)
learning    packing, the DeepSpeed engine, rewards, checkpoints
sandbox     the interpreter: programs in isolation; imports the standard library alone
tools       what a model calls while it reasons
grading     is the last box the reference answer?
evaluation  samples of evaluation sets, graded
estimates   intervals and comparisons, with the problem as the unit
reporting   what was measured, read back: samples, behaviour, nights
rows        rows as others write them, and the tables that stages write
artifacts   directories with a manifest, published whole or not at all; lineage, object stores
runs        what a store remembers of runs: records, tags, leases, what nothing refers to
config      sections of the configuration tree
contract    between a stage and whoever starts it: what a stage is, request, result, environment, guard, code digest
"""
