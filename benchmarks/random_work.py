"""Random models, sequences and trajectories of a given size, for measurements in which only the size matters."""

from dataclasses import replace

import numpy as np
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, Qwen2ForCausalLM

from data.models import ModelShape
from tasks.rl.experience import Experience, Graded
from tasks.shared.learning.packing import TrainSequence
from tasks.shared.traces.trajectory import FinishReason, TrajectoryBuilder


def config_of(shape: ModelShape) -> PretrainedConfig:
    """The configuration of a model of that shape."""
    own = {"head_dim": shape.query_size // shape.heads} if shape.architecture == "qwen3" else {}
    return AutoConfig.for_model(
        shape.architecture,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=shape.tied,
        **own,
    )


def make_qwen2(shape: ModelShape) -> PreTrainedModel:
    """A Qwen2 of that shape, randomly initialised."""
    return Qwen2ForCausalLM(config_of(replace(shape, architecture="qwen2")))


def random_sequences(count: int, length: int, vocabulary: int) -> list[TrainSequence]:
    """Sequences whose first quarter, the prompt, is outside the loss."""
    rng = np.random.default_rng(0)
    loss_mask = np.arange(length) >= length / 4
    return [TrainSequence(rng.integers(0, vocabulary, length), loss_mask) for _ in range(count)]


def random_experience(count: int, length: int, vocabulary: int) -> Experience:
    """Trajectories for a policy update: an eighth of each is the prompt, half are right, all are in the loss."""
    rng = np.random.default_rng(0)
    graded = []
    for index in range(count):
        ids = rng.integers(0, vocabulary, length).tolist()
        builder = TrajectoryBuilder("random", index, tuple(ids[: length // 8]))
        builder.append_sampled(ids[length // 8 :], [-1.0] * (length - length // 8))
        trajectory = builder.finish(FinishReason.LENGTH, "", "")
        correct = index % 2 == 0
        reward = 1.0 if correct else -1.0
        graded.append(Graded(trajectory, 0, "", correct, "", reward, reward))
    none, every = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    return Experience(tuple(graded), none, none, every, np.array([row.reward for row in graded]), none)
