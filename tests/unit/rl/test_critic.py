"""The critic's mathematics against slow references, and its values beside the log-probs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.rl.objective.critic import CriticEngine, ValueModel, explained_variance, gae, value_loss, whiten
from tasks.shared.config import OptimizerConfig
from tasks.shared.learning.logprobs import use_packed_attention
from tasks.shared.learning.packing import pack
from tests.unit.generation.tiny import tiny_model
from tests.unit.learning.sequences import random_sequences


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)])
def test_gae_is_the_weighted_sum_of_later_errors(gamma: float, lam: float) -> None:
    rng = np.random.default_rng(0)
    sampled = np.array([1, 1, 0, 0, 1, 0, 1], dtype=bool)
    values = rng.normal(size=7)
    rewards = np.where(sampled, rng.normal(size=7), 0.0)
    advantages, returns = gae(rewards, values, sampled, gamma, lam)
    places = np.flatnonzero(sampled)
    for start, place in enumerate(places):
        expected = 0.0
        for later in range(start, len(places)):
            after = values[places[later + 1]] if later + 1 < len(places) else 0.0
            error = rewards[places[later]] + gamma * after - values[places[later]]
            expected += (gamma * lam) ** (later - start) * error
        assert advantages[place] == pytest.approx(expected)
        assert returns[place] == pytest.approx(expected + values[place])
    assert not advantages[~sampled].any() and not returns[~sampled].any()


def test_without_discount_every_token_returns_the_outcome() -> None:
    sampled = np.array([1, 0, 1, 1], dtype=bool)
    advantages, returns = gae(np.array([0.0, 0, 0, -1]), np.array([0.5, 9, 0.2, 0.1]), sampled)
    np.testing.assert_allclose(returns[sampled], -1)
    np.testing.assert_allclose(advantages[sampled], [-1.5, -1.2, -1.1])


def test_interpreter_tokens_change_nothing() -> None:
    with_tool = np.array([1, 1, 0, 0, 0, 1], dtype=bool)
    values, rewards = np.array([0.1, 0.2, 7, 8, 9, 0.3]), np.array([0.0, 0, 0, 0, 0, 1])
    without = gae(rewards[with_tool], values[with_tool], np.ones(3, dtype=bool), 0.9, 0.9)
    with_them = gae(rewards, values, with_tool, 0.9, 0.9)
    np.testing.assert_allclose(with_them[0][with_tool], without[0])


def test_a_reward_that_no_action_earned_is_refused() -> None:
    with pytest.raises(AssertionError, match="did not choose"):
        gae(np.array([0.0, 1.0]), np.zeros(2), np.array([True, False]))


def test_the_value_loss_takes_the_larger_error_and_clips_its_gradient() -> None:
    values = torch.tensor([[0.1, 0.9, 0.9, 5.0]], requires_grad=True)
    old = torch.zeros(1, 4)
    returns = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    targets = torch.tensor([[True, True, True, False]])
    loss = value_loss(values, old, returns, targets, denominator=3, clip=0.2)
    # 0.1: inside the clip range; 0.9: clipped 0.2 errs more; 0.9 against 0: unclipped errs more
    assert float(loss.detach()) == pytest.approx(0.5 * (0.9**2 + 0.8**2 + 0.9**2) / 3)
    loss.backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([[-0.9 / 3, 0.0, 0.9 / 3, 0.0]]))


def test_explained_variance() -> None:
    returns = np.array([1.0, -1.0, 1.0, -1.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(np.zeros(4), returns) == 0.0
    assert explained_variance(np.array([0.3, 0.1]), np.ones(2)) == 0.0


def test_values_of_packed_rows_are_those_of_each_sequence_alone() -> None:
    critic = ValueModel(tiny_model(97))
    use_packed_attention(critic.model)
    torch.manual_seed(1)
    torch.nn.init.normal_(critic.head.weight)
    sequences = random_sequences([12, 30, 7], 97)
    (row,) = pack(sequences, row_tokens=49)
    for index, values in row.split(critic(row)):
        (alone,) = pack([sequences[index]], row_tokens=49)
        torch.testing.assert_close(values, critic(alone)[0], rtol=0, atol=1e-5)
        hidden = critic.model(input_ids=alone.ids).last_hidden_state[0]
        for t in np.flatnonzero(alone.loss_mask[0]):
            assert values[t].item() == pytest.approx((hidden[t - 1] @ critic.head.weight[0]).item(), abs=1e-4)


def test_a_new_critic_values_everything_at_zero() -> None:
    (row,) = pack(random_sequences([12], 97), row_tokens=12)
    assert not ValueModel(tiny_model(97))(row).any()


def test_value_clipping_can_be_switched_off() -> None:
    values, returns = torch.tensor([[0.1, 0.9]]), torch.tensor([[1.0, 0.0]])
    loss = value_loss(values, torch.zeros(1, 2), returns, torch.ones(1, 2, dtype=torch.bool), 2, clip=0.0)
    assert float(loss) == pytest.approx(0.5 * (0.9**2 + 0.9**2) / 2)


def test_whitened_advantages_have_mean_0_and_deviation_1() -> None:
    advantages = [np.array([1.0, 2.0, 50.0]), np.array([4.0, 5.0])]
    masks = [np.array([True, True, False]), np.array([True, True])]
    chosen = [1.0, 2.0, 4.0, 5.0]
    mean = sum(chosen) / 4
    deviation = (sum((value - mean) ** 2 for value in chosen) / 4) ** 0.5
    first, second = whiten(advantages, masks)
    np.testing.assert_allclose(first, [(1 - mean) / deviation, (2 - mean) / deviation, 0], rtol=1e-6)
    np.testing.assert_allclose(second, [(4 - mean) / deviation, (5 - mean) / deviation], rtol=1e-6)
    assert whiten([np.ones(2)], [np.zeros(2, dtype=bool)])[0].tolist() == [0, 0]


def test_the_critic_learns_what_a_token_tells_and_resumes_to_the_bit(tmp_path: Path) -> None:
    """Returns that depend on the first token of a sequence; half of the variance is explained in 30 steps."""
    config = OptimizerConfig(learning_rate=3e-3, zero_stage=0, weight_decay=0.0)
    engine = CriticEngine(tiny_model(97), config, total_steps=60)
    sequences = random_sequences([20] * 12, 97)
    (row,) = pack(sequences, row_tokens=240)
    outcome = torch.tensor([1.0 if sequences[i].ids[0] % 2 else -1.0 for i in row.sequences])
    returns = outcome.repeat_interleave(20)[None] * row.loss_mask

    def learn(critic: CriticEngine) -> float:
        loss = value_loss(
            critic.values(row), torch.zeros(1, 240), returns, row.loss_mask, row.num_loss_tokens, 0.0
        )
        critic.backward(loss)
        critic.step()
        return float(loss.detach())

    for _ in range(30):
        learn(engine)
    with torch.no_grad():
        values = engine.values(row)
    assert explained_variance(values[row.loss_mask].numpy(), returns[row.loss_mask].numpy()) > 0.5
    engine.save(tmp_path, {})
    expected = [learn(engine) for _ in range(2)]
    resumed = CriticEngine(tiny_model(97), config, total_steps=60)
    assert resumed.resume(tmp_path) == {}
    assert [learn(resumed) for _ in range(2)] == expected
