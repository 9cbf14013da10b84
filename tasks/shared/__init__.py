"""What stages share; it knows none of them. Read first: `traces`, `generation`, `learning`.

traces      how a trace is written (`dialect.py`), and token ids with their mask (`trajectory.py`)
generation  sampling: the `Generator` protocol, its engines, and the loop with live code (`interleave.py`)
learning    packing, the DeepSpeed engine, losses, advantages, rewards
sandbox     the interpreter: programs in isolation; imports the standard library alone
grading     is the last box the reference answer?
evaluation  samples of evaluation sets, graded
estimates   intervals and comparisons, with the problem as the unit
reporting   what was measured, read back: samples, behaviour, nights, the page
artifacts   directories with a manifest, published whole or not at all; lineage, object stores
execution   a stage run from outside: backends, the guard, what counts as the same work

Loose modules: the stage contract (`stage.py`); the configuration tree (`config.py`, `*_config.py`, `section.py`,
`recipes.py`, `environment.py`); what a store remembers of runs (`runs.py`, `tags.py`, `leases.py`, `collection.py`);
checkpoints (`checkpoints.py`, `checkpoint_files.py`, `own_forward.py`); rows and tables (`raw_rows.py`,
`row_values.py`, `tables.py`, `ngrams.py`); the interpreter that a recipe asks for (`interpreter.py`); small
documents, scratch directories, full disks, and what differs between two settings.
"""
