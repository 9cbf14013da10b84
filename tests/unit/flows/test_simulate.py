"""Properties of the simulated schedule."""

from dataclasses import replace

import pytest

from benchmarks.simulate import Simulation, World
from data.gpus import find_gpu
from data.models import find_model
from flows.planning.seconds import Engines, Pace, Work, sampling_seconds

SHAPE, GPU = find_model("Qwen/Qwen2.5-7B-Instruct").shape, find_gpu("h200")
WORK = Work(trajectories=64, mean_tokens=1000, most_tokens=4096)
WORLD = World(WORK, Pace.of(SHAPE, GPU, 1), engines=4, slots=64, train_s=10.0, sync_s=1.0, staleness=0)


def test_a_synchronous_step_is_the_sum_of_its_parts() -> None:
    """Sampling equals `plan`'s estimate for a batch to a tenth; lengths are drawn, calls wait in between."""
    outcome = Simulation(WORLD).run()
    sampling = sampling_seconds(WORK, SHAPE, GPU, Engines(4, 1, 64), 2)
    assert outcome.step_s == pytest.approx(sampling + 11.0, rel=0.1)
    assert outcome.waits == pytest.approx(1 - 11.0 / outcome.step_s, abs=1e-6)
    assert outcome.oldest == 0


@pytest.mark.parametrize("staleness", [1, 3])
def test_asynchronous_steps_are_shorter_within_the_staleness_bound(staleness: int) -> None:
    outcome = Simulation(replace(WORLD, staleness=staleness)).run()
    assert outcome.oldest <= staleness
    assert outcome.step_s < Simulation(WORLD).run().step_s
    assert outcome.step_s >= 11.0 - 1e-6


def test_a_slow_trainer_never_waits_for_itself() -> None:
    slow = Simulation(replace(WORLD, staleness=1, train_s=1000.0)).run()
    assert slow.step_s == pytest.approx(1001.0) and slow.waits == pytest.approx(0.0)


def test_an_engine_holds_as_many_rows_as_its_cache() -> None:
    """With two rows at a time a batch takes longer, and no engine has more rows."""
    few = Simulation(replace(WORLD, slots=2)).run()
    assert few.rows <= 2 and few.step_s > 1.2 * Simulation(WORLD).run().step_s
