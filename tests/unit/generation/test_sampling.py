"""Inverse-CDF sampling against a plain numpy reference, and its statistics against the distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.shared.generation.protocol import Sampling
from tasks.shared.generation.sampling import draw, uniform_stream


def slow_distribution(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution sampled from, one row, in plain numpy."""
    scaled = logits.astype(np.float64) / (sampling.temperature or 1.0)
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    if sampling.top_p < 1 and sampling.temperature:
        order = sorted(range(len(logits)), key=lambda i: (-probabilities[i], i))
        kept, total = [], 0.0
        for i in order:
            if total >= sampling.top_p:
                break
            kept.append(i)
            total += probabilities[i]
        cut = np.zeros_like(probabilities)
        cut[kept] = probabilities[kept] / total
        probabilities = cut
    return probabilities


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(
        st.builds(
            Sampling,
            temperature=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
            top_p=st.sampled_from([0.3, 0.7, 1.0]),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_draws_match_the_slow_reference(seed: int, samplings: list[Sampling]) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (len(samplings), 23)).astype(np.float32)
    uniforms = random.random(len(samplings)).tolist()
    ids, logprobs = draw(torch.from_numpy(logits), uniforms, samplings)
    for row, sampling in enumerate(samplings):
        probabilities = slow_distribution(logits[row], sampling)
        if sampling.temperature == 0:
            expected = int(logits[row].argmax())
        else:
            cumulative = np.cumsum(probabilities)
            edges = np.abs(cumulative - uniforms[row] * cumulative[-1])
            if edges.min() < 1e-6:  # at the edge between two tokens float32 may give either
                continue
            expected = int(np.argmax(cumulative > uniforms[row] * cumulative[-1]))
        assert ids[row].item() == expected
        assert logprobs[row].item() == pytest.approx(np.log(probabilities[expected]), abs=1e-4)


def test_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf]).repeat(20000, 1)
    stream = uniform_stream(3)
    ids, _ = draw(logits, [next(stream) for _ in range(20000)], [Sampling()] * 20000)
    share = torch.bincount(ids, minlength=5) / 20000
    assert torch.allclose(share, torch.softmax(logits[0], -1), atol=0.012)
    assert share[4] == 0


def test_streams_are_reproducible_and_differ_by_seed() -> None:
    first, again, other = uniform_stream(1), uniform_stream(1), uniform_stream(2)
    values = [next(first) for _ in range(600)]
    assert values == [next(again) for _ in range(600)]
    assert values != [next(other) for _ in range(600)]
    assert len(set(values)) == 600
