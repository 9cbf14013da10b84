"""The drill of a long run: hundreds of RL steps over many rounds in one process take constant resources."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.shared.estimates.intervals import t_quantile
from tests.integration.rl_world import make_request, make_store
from tests.integration.stages import in_process

STEPS_A_ROUND = 10
MOST_GROWTH = 0.002  # of the mean, per round; a slope whose interval lies above it fails
WARMUP = 5  # rounds in which caches and arenas fill
MEASURED = ("MiB", "descriptors", "processes", "threads", "scratch MiB", "CPU s a step")


def slope(values: Sequence[float]) -> tuple[float, float, float]:
    """Least squares slope of values a round with its 95 % interval: (slope, low, high)."""
    x = np.arange(len(values), dtype=float)
    x -= x.mean()
    y = np.array(values) - np.mean(values)
    found = float(x @ y / (x @ x))
    error = math.sqrt(float(((y - found * x) ** 2).sum()) / (len(values) - 2) / float(x @ x))
    half = t_quantile(0.975, len(values) - 2) * error
    return found, found - half, found + half


def size_of(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_long_run_stays_flat(
    tmp_path: Path, saw: Callable[[str], None], pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RL rounds in one process: memory, descriptors, processes, disk, CPU s a step grow by under 0.2 % a round."""
    monkeypatch.setenv("TIRFLOW_HOME", str(tmp_path / "home"))
    rounds = int(pytestconfig.getoption("--steps")) // STEPS_A_ROUND
    inputs = make_store(tmp_path)
    rl = {"rounds": rounds, "steps_per_round": STEPS_A_ROUND, "prompts_per_step": 2, "samples_per_prompt": 4}
    seen: dict[str, list[float]] = {name: [] for name in MEASURED}
    process = psutil.Process()
    for _ in range(rounds):
        request = make_request(tmp_path, inputs, **rl)
        before_s = time.process_time()  # excludes other work on the machine
        made = in_process(request).outputs
        seen["MiB"].append(process.memory_info().rss / 2**20)
        seen["descriptors"].append(process.num_fds())
        seen["processes"].append(len(process.children(recursive=True)))
        seen["threads"].append(process.num_threads())
        seen["scratch MiB"].append(size_of(Path(request.scratch)))
        seen["CPU s a step"].append((time.process_time() - before_s) / STEPS_A_ROUND)
        shutil.rmtree(request.scratch)  # the launcher prunes it
        inputs = inputs | {"checkpoint": made["checkpoint"], "trainer_state": made["trainer_state"]}
    slopes = {name: slope(values[WARMUP:]) for name, values in seen.items()}
    for name, (found, low, high) in slopes.items():
        first, last = seen[name][WARMUP], seen[name][-1]
        saw(f"{name} {first:.3g} -> {last:.3g}, slope {found:.2g} [{low:.2g}, {high:.2g}] a round")
    for name, (_, low, _) in slopes.items():
        assert low <= MOST_GROWTH * np.mean(seen[name][WARMUP:]), f"{name} grows: {seen[name]}"
