"""The critic within a step: rewards at their token, advantages per token, any division into rows, no outages."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.rl.config import CriticConfig, RlConfig
from tasks.rl.critic import CriticUpdate, Values, with_advantages
from tasks.rl.experience import Experience, Graded
from tasks.rl.metrics import learning_metrics
from tasks.rl.objective.critic import CriticEngine
from tasks.rl.probe import Gap
from tasks.rl.update import PolicyUpdate
from tasks.shared.config import OptimizerConfig
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.traces.trajectory import FinishReason, Trajectory
from tests.unit.generation.tiny import tiny_model

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, zero_stage=0, weight_decay=0.0)


def row(group: int, sample: int, length: int, reward: float, feedback: slice = slice(0, 0)) -> Graded:
    """A response of `length` random ids; those of `feedback` are the interpreter's. Reward 0: an outage."""
    ids = np.random.default_rng([group, sample]).integers(0, 97, length).tolist()
    sampled = np.ones(length, dtype=bool)
    sampled[feedback] = False
    finish = FinishReason.EOS if reward else FinishReason.SANDBOX_FAILURE
    logprobs = tuple(np.where(sampled, -4.5, 0.0).tolist())
    trajectory = Trajectory(
        f"p{group}", sample, (5, 6, 7), tuple(ids), tuple(sampled.tolist()), logprobs, (), finish, "", ""
    )
    return Graded(trajectory, group, "", reward > 0, "", reward, reward)


def experience() -> Experience:
    graded = (
        row(0, 0, 9, 1.0, slice(3, 5)),
        row(0, 1, 6, -1.0, slice(4, 6)),
        row(1, 0, 7, 0.0),
        row(1, 1, 4, 1.0),
    )
    outage = np.array([False, False, True, False])
    in_loss = np.array([True, True, False, False])
    return Experience(graded, outage, np.zeros(4, dtype=bool), in_loss, np.zeros(4), np.zeros(4, dtype=bool))


def config(tokens: int = 40, **critic: float) -> RlConfig:
    return RlConfig(
        algorithm="ppo", tokens_per_micro_batch=tokens, optimizer=OPTIMIZER, critic=CriticConfig(**critic)
    )


def engine() -> CriticEngine:
    engine = CriticEngine(tiny_model(97), OPTIMIZER, total_steps=10)
    head = engine._root.get_parameter("head.weight")
    torch.nn.init.normal_(head, std=0.02, generator=torch.Generator().manual_seed(1))
    return engine


def test_values_are_the_model_s_and_returns_the_outcome() -> None:
    critic = engine()
    found = CriticUpdate(critic, config()).evaluate(experience())
    head = critic._root.get_parameter("head.weight")[0]
    body = critic._root.get_submodule("model")
    for graded, values, returns, advantages in zip(
        experience().graded, found.values, found.returns, found.advantages, strict=True
    ):
        trajectory = graded.trajectory
        if not graded.reward:
            assert not values.any() and not returns.any() and not advantages.any()
            continue
        ids = torch.tensor([[*trajectory.prompt_ids, *trajectory.response_ids]])
        with torch.no_grad():
            states = body(input_ids=ids).last_hidden_state[0]
        for t, sampled in enumerate(trajectory.loss_mask):
            expected = (states[2 + t] @ head).item() if sampled else 0.0
            assert values[t] == pytest.approx(expected, abs=1e-4)
            assert returns[t] == pytest.approx(graded.reward if sampled else 0.0)
            assert advantages[t] == pytest.approx(graded.reward - expected if sampled else 0.0, abs=1e-4)


def test_with_a_discount_the_reward_is_earned_at_the_last_sampled_token() -> None:
    """The second response ends in feedback: its reward is that of token 3."""
    found = CriticUpdate(engine(), config(gamma=0.5)).evaluate(experience())
    np.testing.assert_allclose(found.returns[1][:4], [-0.125, -0.25, -0.5, -1.0])
    assert not found.returns[1][4:].any()


def test_how_rows_are_cut_changes_nothing() -> None:
    results = []
    for tokens in (12, 40):
        critic = engine()
        update = CriticUpdate(critic, config(tokens))
        evaluated = update.evaluate(experience())
        metrics = update.update(experience(), evaluated, seed=1)
        after = update.evaluate(experience())
        results.append((metrics, np.concatenate(after.values)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-4)
    metrics = results[0][0]
    values = np.concatenate(evaluated.values)
    returns = np.concatenate(evaluated.returns)
    sampled = np.concatenate(
        [np.array(g.trajectory.loss_mask) & (g.reward != 0) for g in experience().graded]
    )
    errors = (values - returns)[sampled] ** 2
    assert metrics["value_loss"] == pytest.approx(0.5 * errors.mean(), rel=1e-4)
    assert metrics["explained_variance"] == pytest.approx(
        1 - np.var((returns - values)[sampled]) / np.var(returns[sampled]), rel=1e-4
    )
    assert np.mean((results[0][1] - returns)[sampled] ** 2) < errors.mean()


def test_token_advantages_are_whitened_over_valid_rows() -> None:
    """The last row is valid but not in the loss: it counts in mean and deviation, as in GRPO's groups."""
    tokens = tuple(np.arange(len(g.trajectory.response_ids), dtype=float) for g in experience().graded)
    evaluated = Values(tokens, tokens, tokens)
    plain = with_advantages(experience(), evaluated, whitened=False)
    assert plain.token_advantages == tokens
    assert plain.advantages[0] == pytest.approx(np.mean([0, 1, 2, 5, 6, 7, 8]))
    whitened = with_advantages(experience(), evaluated, whitened=True)
    assert whitened.token_advantages is not None
    chosen = np.array([0, 1, 2, 5, 6, 7, 8, 0, 1, 2, 3.0, 0, 1, 2, 3])
    expected = (chosen - chosen.mean()) / chosen.std()
    first, second, outage, last = whitened.token_advantages
    found = [first[[0, 1, 2, 5, 6, 7, 8]], second[:4], last]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-6)
    assert not outage.any() and not first[3:5].any()
    left = replace(experience(), dropped=np.array([False, False, False, True]))
    kept = with_advantages(left, evaluated, whitened=True).token_advantages
    assert kept is not None and not kept[3].any() and kept[0][0] != first[0]


def test_the_policy_gradient_follows_token_advantages() -> None:
    """One on-policy step: with advantages of a single token, the loss is that token's alone, w = 1 / tokens."""
    policy = TrainingEngine(tiny_model(97), OPTIMIZER, total_steps=1)
    one = np.zeros(9)
    one[6] = 3.0
    tokens = (one, *(np.zeros(len(g.trajectory.response_ids)) for g in experience().graded[1:]))
    scored = with_advantages(experience(), Values(tokens, tokens, tokens), whitened=False)
    settings = config().model_copy(update={"importance_cap": 0.0})
    before = {name: tensor.clone() for name, tensor in policy.weights()}
    result = PolicyUpdate(policy, settings, None, 20).update(scored, seed=1, learn=False)
    assert result.num_updates == 0 and result.sums.tokens == 11
    assert result.sums.loss == pytest.approx(-3.0 / 11)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.weights())
    assert PolicyUpdate(policy, settings, None, 20).update(scored, seed=1).num_updates == 1
    assert any(not torch.equal(tensor, before[name]) for name, tensor in policy.weights())


def test_the_constant_reduction_divides_by_what_a_step_could_hold() -> None:
    policy = TrainingEngine(tiny_model(97), OPTIMIZER, total_steps=1)
    settings = RlConfig(
        algorithm="dr_grpo",
        reduction="constant",
        prompts_per_step=2,
        samples_per_prompt=2,
        importance_cap=0.0,
    )
    tokens = experience()
    tokens.advantages[:2] = [2.0, -1.0]
    result = PolicyUpdate(policy, settings, None, max_response_tokens=20).update(tokens, seed=1, learn=False)
    assert result.sums.loss == pytest.approx(-(7 * 2.0 + 4 * -1.0) / (2 * 2 * 20))


def test_the_loss_is_a_mean_over_mini_batches() -> None:
    """Two mini-batches of one trajectory each, with means of their own; then a step with nothing in the loss."""
    policy = TrainingEngine(tiny_model(97), OPTIMIZER, total_steps=4)
    settings = RlConfig(mini_batches=2, importance_cap=0.0, optimizer=OPTIMIZER)
    both = experience()
    both.advantages[:2] = [2.0, -1.0]
    result = PolicyUpdate(policy, settings, None, 20).update(both, seed=1, learn=False)
    assert result.sums.loss == pytest.approx(-(2.0 - 1.0) / 2)
    empty = replace(both, in_loss=np.zeros(4, dtype=bool))
    result = PolicyUpdate(policy, settings, None, 20).update(empty, seed=1)
    metrics = learning_metrics(1, 1, empty, result, Gap(0.0, 0.0))
    of_tokens = (
        "loss",
        "entropy",
        "kl_old",
        "kl_reference",
        "clip_fraction",
        "capped_fraction",
        "masked_fraction",
    )
    for name in (*of_tokens, "gap_mean", "gap_kl", "gap_max", "grad_norm"):
        assert metrics[name] is None, name
    assert metrics["updates"] == metrics["in_loss"] == 0
