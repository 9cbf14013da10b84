"""The plan of steps: every trace once per epoch, in an order of the seed, within the token budget."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.sft.steps import plan_steps


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=30),
    epochs=st.integers(1, 3),
    budget=st.integers(20, 60),
    seed=st.integers(0, 5),
)
def test_every_trace_is_seen_once_an_epoch_within_the_budget(
    lengths: list[int], epochs: int, budget: int, seed: int
) -> None:
    steps = plan_steps(lengths, epochs=epochs, tokens_per_step=budget, max_steps=None, seed=seed)
    assert all(sum(lengths[index] for index in step) <= budget for step in steps)
    order = [index for step in steps for index in step]
    for epoch in range(epochs):
        seen = order[epoch * len(lengths) : (epoch + 1) * len(lengths)]
        assert sorted(seen) == list(range(len(lengths)))


def test_the_seed_decides_the_order_and_epochs_differ() -> None:
    def plan(seed: int) -> list[list[int]]:
        return plan_steps([1] * 20, epochs=2, tokens_per_step=20, max_steps=None, seed=seed)

    assert plan(1) == plan(1) != plan(2)
    assert plan(1)[0] != plan(1)[1]


def test_a_fraction_of_an_epoch() -> None:
    steps = plan_steps([1] * 10, epochs=1.5, tokens_per_step=5, max_steps=None, seed=0)
    assert [len(step) for step in steps] == [5, 5, 5]


def test_max_steps_ends_the_plan_early() -> None:
    long = plan_steps([3] * 10, epochs=1, tokens_per_step=6, max_steps=None, seed=0)
    short = plan_steps([3] * 10, epochs=1, tokens_per_step=6, max_steps=2, seed=0)
    assert len(long) == 5 and short == long[:2]


def test_a_trace_above_the_budget_has_a_step_of_its_own() -> None:
    assert sorted(plan_steps([9, 2], epochs=1, tokens_per_step=4, max_steps=None, seed=0)) == [[0], [1]]
