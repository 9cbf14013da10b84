"""Ranks: the process group of this process, and the restart of a stage under torchrun for several ranks.

A stage with several ranks calls `run_on_ranks`, which starts the same module under torchrun and passes its progress
on. Inside a rank `under_launcher()` is true and the stage does its work. With several hosts each starts its share
(tasks/launch/nodes.py), and they find each other through the request's `rendezvous`. Only the first rank publishes and
writes to stdout.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tasks.shared.contract.addresses import address_towards, interface_of
from tasks.shared.contract.environment import (
    become_only_rank,
    rank,
    ranks_environment,
    under_launcher,
    world_size,
)
from tasks.shared.contract.stage import Rendezvous, StageContext, StageResult, TrainingStopped, emit

Item = TypeVar("Item")
# torchrun's report of a rank that a signal ended.
DEATH = re.compile(r"Signal (\d+) \(\w+\) received by PID")
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
LAST_WORDS_S = 10.0
# Wait for other ranks. The first may sample for all, another write its part of a saved state to a slow disk; NCCL's own
# limit is 10 minutes. A rank that dies ends all.
LONGEST_WAIT = timedelta(hours=24)


def start_process_group() -> None:
    """Join the launcher's ranks, or become the only rank; calling it again changes nothing."""
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if under_launcher():
        if rank() > 0:
            sys.stdout = sys.stderr  # stdout carries the stage's events, once
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    else:
        become_only_rank()
        dist.init_process_group(backend, timeout=LONGEST_WAIT, store=dist.HashStore(), rank=0, world_size=1)


def make_groups_patient() -> None:
    """Set LONGEST_WAIT for the groups that DeepSpeed has made with the backend's own timeout."""
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(LONGEST_WAIT, group)


def leave_to_first_rank() -> None:
    """End every rank but the first, successfully, because publication is done once.

    Skips Python's teardown, in which a library's thread may abort the process ("terminate called without an active
    exception"); the launcher would then end the first rank in the middle of its publication.
    """
    if dist.is_initialized() and world_size() > 1:
        dist.barrier()
        dist.destroy_process_group()
    if rank() > 0:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _is_alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def sum_over_ranks(value: float) -> float:
    """The sum of a number over all ranks; exact for integers below 2**53."""
    return _reduced(value, dist.ReduceOp.SUM)


def max_over_ranks(value: float) -> float:
    """The largest of a number over all ranks."""
    return _reduced(value, dist.ReduceOp.MAX)


def _reduced(value: float, operation: Any) -> float:
    if _is_alone():
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    result = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(result, operation)
    return float(result)


def gather_from_ranks(items: Sequence[Item]) -> list[Item]:
    """The items of all ranks, in the order of ranks, in every rank. Items are pickled: our own records only."""
    if _is_alone():
        return list(items)
    gathered: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, list(items))
    return [item for part in gathered for item in part]


def gather_to_first_rank(items: Sequence[Item]) -> list[Item]:
    """The items of all ranks, in their order, in the first; none in the others. Pickled: our own records only."""
    if _is_alone():
        return list(items)
    gathered: list[list[Item]] | None = [[]] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(list(items), gathered)
    return [item for part in gathered or () for item in part]


def deal_to_ranks(items: Sequence[Item]) -> Item:
    """Give rank r item r of the first rank; the others' items are ignored. Pickled: our own records only."""
    if _is_alone():
        [item] = items
        return item
    dealt: list[Any] = [None]
    dist.scatter_object_list(dealt, list(items) if dist.get_rank() == 0 else None)
    return dealt[0]


def stopped_together(check: Callable[[], None]) -> None:
    """Run `check` in the first rank, which alone has the data; raise its TrainingStopped in all ranks."""
    stopped: TrainingStopped | None = None
    if rank() == 0:
        try:
            check()
        except TrainingStopped as error:
            stopped = error
    if (shared := from_first_rank(stopped)) is not None:
        raise shared


def from_first_rank(item: Item) -> Item:
    """The first rank's item in every rank; the others' items are ignored. Pickled: our own records only."""
    if _is_alone():
        return item
    carried = [item]
    dist.broadcast_object_list(carried)
    return carried[0]


def run_on_ranks(module: str, context: StageContext[Any], ranks: int) -> StageResult:
    """Run this stage's request again with `ranks` processes, of which this host starts its share; return the result.

    The result is empty on every host but the first, which publishes. Raises ValueError, OSError or TrainingStopped with
    the rank's own message; SystemExit with the shell's code if a signal ended a rank; RuntimeError if the ranks died
    without a message (the traceback is on stderr).
    """
    directory, rendezvous = Path(context.request.scratch) / "ranks", context.request.rendezvous
    directory.mkdir(parents=True, exist_ok=True)
    request = directory / "request.json"
    request.write_text(context.request.model_dump_json())
    result = directory / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", *_rank_arguments(ranks, rendezvous)]
    command += ["-m", module, str(request)]
    error: dict[str, Any] = {}
    spread = rendezvous is not None and rendezvous.trainers > 1
    interface = interface_of(address_towards(rendezvous.address)) if rendezvous and spread else ""
    with (
        _deaths_on_stderr() as (stderr, deaths),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=ranks_environment(interface)
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            event = _parse_event(line)
            if event is None:
                sys.stderr.write(line)
            elif event["event"] == "error":
                error = event
            elif event["event"] != "result":  # the caller's stage_main reports the result
                emit(event.pop("event"), **{key: value for key, value in event.items() if key != "time"})
    if error:
        kinds = {"input": ValueError, "storage": OSError, "training": TrainingStopped}
        raise kinds[error["kind"]](error["message"])
    if rendezvous and rendezvous.node > 0 and process.returncode == 0:
        return StageResult(outputs={}, metrics={})
    if not result.is_file():  # written last: once it is there, all work is done, however ranks ended
        if deaths:  # others may have aborted after one was killed
            raise SystemExit(128 + next((n for n in FROM_OUTSIDE if n in deaths), deaths[0]))
        raise RuntimeError(
            f"{module}: the ranks ended with status {process.returncode}; their traceback is above"
        )
    return StageResult.model_validate_json(result.read_text())


@contextmanager
def _deaths_on_stderr() -> Iterator[tuple[int, list[int]]]:
    """A descriptor that forwards to stderr, and the signals that ended ranks by torchrun's reports there."""
    reading, writing = os.pipe()
    deaths: list[int] = []

    def pass_on() -> None:
        with os.fdopen(reading, errors="replace") as text:
            for line in text:
                sys.stderr.write(line)
                deaths.extend(int(number) for number in DEATH.findall(line))

    listener = threading.Thread(target=pass_on, name="ranks-stderr", daemon=True)
    listener.start()
    try:
        yield writing, deaths
    finally:
        os.close(writing)
        listener.join(LAST_WORDS_S)  # a process that a rank has left may hold the other end


def _rank_arguments(ranks: int, rendezvous: Rendezvous | None) -> list[str]:
    """torchrun's arguments for the number of ranks and hosts."""
    if rendezvous is None or rendezvous.trainers == 1:
        return ["--standalone", f"--nproc-per-node={ranks}"]
    return [
        f"--nproc-per-node={ranks // rendezvous.trainers}",
        f"--nnodes={rendezvous.trainers}",
        f"--node-rank={rendezvous.node}",
        f"--master-addr={rendezvous.address}",
        f"--master-port={rendezvous.port}",
    ]


def _parse_event(line: str) -> dict[str, Any] | None:
    """A stage event, or None for a line that a library printed."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
