"""Stages as Prefect tasks: run once for the same work, here or on a worker of the stage pool.

`run_stage` is what every `tasks/<stage>/task.py` calls; where a stage runs is `TIRFLOW_BACKEND` (process, docker, or
workers, which hands it to the deployment `stage/gpu`).
"""

from tasks.launch.keys import derive_seed, work_key
from tasks.launch.nodes import join
from tasks.launch.run import Run, StageOrder, carry_out, require_runnable, run_stage

__all__ = [
    "Run",
    "StageOrder",
    "carry_out",
    "derive_seed",
    "join",
    "require_runnable",
    "run_stage",
    "work_key",
]
