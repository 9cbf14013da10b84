"""The probe on real engines: it passes for equal weights and names a stale tensor."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.rl import probe as probing
from tasks.rl.probe import BOUNDS, WeightsDiffer, probe
from tasks.shared.config import OptimizerConfig
from tasks.shared.generation.transformers_engine import TransformersGenerator
from tasks.shared.learning import engine as training
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.logprobs import token_logprobs
from tasks.shared.learning.packing import TrainSequence, pack
from tests.unit.generation.tiny import CORPUS, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_probe_holds_after_a_sync_and_names_a_stale_tensor(dtype: str) -> None:
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    model, sampler = (
        tiny_model(len(tokenizer), tied=False, seed=n).to(getattr(torch, dtype)) for n in (0, 9)
    )
    engine = TrainingEngine(model, OptimizerConfig(zero_stage=2), total_steps=1)
    generator = TransformersGenerator(sampler, tokenizer, 2)
    sequences = [tokenizer.encode(text) for text in CORPUS]
    bound = BOUNDS[dtype]
    with pytest.raises(WeightsDiffer, match=r"rl.probe_bound = 0\.\d+; tensors that differ: "):
        probe(engine, generator, sequences, bound, 1000)
    generator.load_weights(engine.weights())
    assert probe(engine, generator, sequences, bound, 1000).largest < 1e-5
    with torch.no_grad():
        sampler.lm_head.weight.mul_(1.2)  # a stale head, as with vLLM's tied embeddings
    with pytest.raises(WeightsDiffer, match=r"tensors that differ: lm_head\.weight$"):
        probe(engine, generator, sequences, bound, 1000)


def test_rounding_of_bfloat16_is_reported_and_stops_nothing() -> None:
    """Equal weights, other kernels: single tokens differ by more than a stale tensor may in float32."""
    tokenizer = tiny_tokenizer()
    model, sampler = (
        tiny_model(len(tokenizer), tied=False, layers=4, spread=0.2).to(torch.bfloat16) for _ in range(2)
    )
    sampler.set_attn_implementation("eager")
    engine = TrainingEngine(model, OptimizerConfig(zero_stage=2), total_steps=1)

    def score(sequences: list[list[int]]) -> list[list[float]]:
        rows = [pack([TrainSequence(np.array(s), np.ones(len(s), dtype=bool))], 1000)[0] for s in sequences]
        with torch.no_grad():
            return [token_logprobs(sampler, row)[0].tolist() for row in rows]

    sequences = [tokenizer.encode(text) for text in CORPUS]
    generator: Any = SimpleNamespace(score=score, differing=lambda _: [])
    gap = probe(engine, generator, sequences, BOUNDS["bfloat16"], 1000)
    assert 0 < gap.mean < 0.05 < gap.largest
    with pytest.raises(
        WeightsDiffer, match=r"yet all tensors are equal: this is rounding, or .*rl.probe_bound"
    ):
        probe(engine, generator, sequences, 0.001, 1000)


@pytest.mark.parametrize("place", range(3))
def test_a_score_that_is_not_a_number_is_a_difference(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    values = {i: np.zeros(4) for i in range(3)}
    scores = [np.zeros(4) for _ in range(3)]
    scores[place][2] = np.nan
    monkeypatch.setattr(probing, "_trainer_logprobs", lambda *_: values)
    with pytest.raises(WeightsDiffer, match="differ by inf a token"):
        probe(_scores([]), _scores(scores), [[1, 2, 3, 4]] * 3, 1e9, 1000)


def test_a_rank_that_computes_no_sequence_compares_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of eight ranks, for which four sequences leave no row, has the stale sampler."""
    tokenizer = tiny_tokenizer()
    engine = TrainingEngine(
        tiny_model(len(tokenizer), tied=False), OptimizerConfig(zero_stage=0), total_steps=1
    )
    sequences = [tokenizer.encode(text)[:6] for text in CORPUS]
    computed: list[tuple[int, np.ndarray]] = [(i, np.zeros(6)) for i in range(len(sequences[:4]))]
    monkeypatch.setattr(training, "rank", lambda: 7)
    monkeypatch.setattr(training, "world_size", lambda: 8)

    def gathered(mine: Sequence[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
        assert not mine, "this rank computed something"
        return computed

    monkeypatch.setattr(probing, "gather_from_ranks", gathered)
    with pytest.raises(WeightsDiffer, match="differ by 99"):
        probe(engine, _scores([np.full(6, 99.0) for _ in computed]), sequences, 0.05, 1000)


def _scores(values: list[np.ndarray]) -> Any:
    """A sampler that gives these log-probs."""
    return SimpleNamespace(score=lambda _: values)
