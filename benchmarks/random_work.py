"""Random models, sequences and trajectories of a given size, for measurements in which only the size matters."""

import numpy as np
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tasks.rl.experience import Experience, Graded
from tasks.shared.learning.packing import TrainSequence
from tasks.shared.traces.trajectory import FinishReason, Trajectory, TrajectoryBuilder


def make_qwen2(
    *,
    hidden: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    intermediate: int,
    vocabulary: int,
    positions: int,
) -> PreTrainedModel:
    """Qwen2's architecture with tied embeddings, randomly initialised."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_value_heads,
            intermediate_size=intermediate,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
        )
    )


def random_sequences(
    count: int, length: int, vocabulary: int, prompt_share: float = 0.25
) -> list[TrainSequence]:
    """Sequences whose first part, the prompt, is outside the loss."""
    rng = np.random.default_rng(0)
    trained = np.arange(length) >= prompt_share * length
    return [TrainSequence(rng.integers(0, vocabulary, length), trained) for _ in range(count)]


def random_experience(count: int, length: int, vocabulary: int, prompt_share: float = 0.125) -> Experience:
    """What a policy update gets: trajectories, half of them right, every one in the loss."""
    rng = np.random.default_rng(0)
    graded = []
    for index in range(count):
        trajectory = _trajectory(
            index, rng.integers(0, vocabulary, length).tolist(), int(prompt_share * length)
        )
        correct = index % 2 == 0
        graded.append(
            Graded(trajectory, 0, "", correct, "", 1.0 if correct else -1.0, 1.0 if correct else -1.0)
        )
    none, every = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    return Experience(tuple(graded), none, none, every, np.array([row.reward for row in graded]), none)


def _trajectory(index: int, ids: list[int], num_prompt: int) -> Trajectory:
    builder = TrajectoryBuilder("random", index, tuple(ids[:num_prompt]))
    sampled = ids[num_prompt:]
    builder.append_sampled(sampled, [-1.0] * len(sampled))
    return builder.finish(FinishReason.LENGTH, "", "")
