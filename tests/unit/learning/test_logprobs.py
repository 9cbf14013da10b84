"""Log-probs and entropies of packed rows, against each sequence run alone through the whole model."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tasks.shared.config import OptimizerConfig
from tasks.shared.learning import logprobs
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.logprobs import token_logprobs, token_scores, use_packed_attention
from tasks.shared.learning.own_forward import eager_attention
from tasks.shared.learning.packing import TrainSequence, pack
from tests.unit.generation.architectures import ARCHITECTURES, RECURRENT, make_model
from tests.unit.generation.tiny import tiny_model
from tests.unit.learning.sequences import random_sequences

VOCABULARY = 97
LENGTHS = [17, 3, 40, 1, 25, 8, 31]


def alone(
    model: PreTrainedModel, sequence: TrainSequence, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reference: log-probs and entropies of one sequence, token by token, 0 where it is not trained."""
    logits = model(input_ids=torch.from_numpy(sequence.ids)[None]).logits[0].double() / temperature
    values, entropies = torch.zeros(len(sequence.ids)).double(), torch.zeros(len(sequence.ids)).double()
    for t in range(1, len(sequence.ids)):
        if sequence.loss_mask[t]:
            distribution = logits[t - 1].softmax(-1)
            values[t] = distribution[sequence.ids[t]].log()
            entropies[t] = torch.distributions.Categorical(probs=distribution).entropy()
    return values, entropies


@pytest.mark.parametrize("attention", ["packed", "sdpa", "eager"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packing_changes_no_logprob_and_no_entropy(attention: str, temperature: float) -> None:
    model = tiny_model(VOCABULARY)
    model.set_attn_implementation("eager" if attention == "eager" else "sdpa")
    sequences = random_sequences(LENGTHS, VOCABULARY)
    expected = [alone(model, sequence, temperature) for sequence in sequences]
    if attention == "packed":
        use_packed_attention(model)
    assert model.config._attn_implementation == attention
    for row in pack(sequences, row_tokens=64):
        scores = token_scores(model, row, temperature, with_entropy=True)
        assert scores.entropy is not None
        for (index, values), (_, entropies) in zip(
            row.split(scores.logprobs), row.split(scores.entropy), strict=True
        ):
            torch.testing.assert_close(values.double(), expected[index][0], rtol=0, atol=1e-5)
            torch.testing.assert_close(entropies.double(), expected[index][1], rtol=0, atol=1e-5)


def test_packing_changes_no_gradient() -> None:
    model = tiny_model(VOCABULARY).double()  # norms, softmax and logits stay float32
    sequences = random_sequences(LENGTHS, VOCABULARY)
    torch.stack([alone(model, sequence, 1.0)[0].sum() for sequence in sequences]).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    use_packed_attention(model)
    for row in pack(sequences, row_tokens=64):
        token_logprobs(model, row).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad - expected[name]).norm() < 1e-6 * expected[name].norm(), name


def test_a_neighbour_in_the_row_has_no_influence() -> None:
    model = tiny_model(VOCABULARY)
    use_packed_attention(model)
    first, second, other = random_sequences([20, 20, 20], VOCABULARY)
    (row,) = pack([first, second], row_tokens=40)
    (changed,) = pack([other, second], row_tokens=40)
    before, after = row.split(token_logprobs(model, row)), changed.split(token_logprobs(model, changed))
    assert torch.equal(before[1][1], after[1][1])
    assert not torch.equal(before[0][1], after[0][1])


def test_logits_in_pieces_give_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(VOCABULARY)
    use_packed_attention(model)
    (row,) = pack(random_sequences(LENGTHS, VOCABULARY), row_tokens=sum(LENGTHS))
    whole = token_logprobs(model, row)
    whole.sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(logprobs, "MAX_LOGITS", 10 * VOCABULARY)  # ten rows of logits at once
    pieces = token_logprobs(model, row)
    pieces.sum().backward()
    torch.testing.assert_close(pieces, whole)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_a_row_without_targets_has_a_gradient_of_zero() -> None:
    model = tiny_model(VOCABULARY)
    (row,) = pack([TrainSequence(np.arange(5), np.zeros(5, dtype=bool))], row_tokens=5)
    token_logprobs(model, row).sum().backward()
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)
    assert model.get_output_embeddings().weight.grad is not None


def test_generation_still_works_with_packed_attention() -> None:
    model = tiny_model(VOCABULARY)
    prompts = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor(
        [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    )  # left padding: plain causal attention would see it
    expected = model.generate(prompts, attention_mask=mask, max_new_tokens=8, do_sample=False)
    use_packed_attention(model)
    generated = model.generate(prompts, attention_mask=mask, max_new_tokens=8, do_sample=False)
    assert torch.equal(generated, expected)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_rows_give_what_each_architecture_computes_itself(kind: str) -> None:
    """Scaled or capped logits, windows over some or all layers: packed rows equal the model's own pass."""
    model = make_model(kind, VOCABULARY)
    sequences = random_sequences(LENGTHS, VOCABULARY)
    model.set_attn_implementation("eager")
    expected = [alone(model, sequence, 1.0)[0] for sequence in sequences]
    model.set_attn_implementation("sdpa")
    use_packed_attention(model)
    for row in pack(sequences, row_tokens=64):
        for index, values in row.split(token_logprobs(model, row)):
            torch.testing.assert_close(values.double(), expected[index], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral", "granite"])
def test_windows_and_scales_change_no_gradient(kind: str) -> None:
    model = make_model(kind, VOCABULARY)
    sequences = random_sequences([17, 3, 25], VOCABULARY)
    model.set_attn_implementation("eager")
    torch.stack([alone(model, sequence, 1.0)[0].sum() for sequence in sequences]).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    use_packed_attention(model)
    (row,) = pack(sequences, row_tokens=45)
    token_logprobs(model, row).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad - expected[name]).norm() < 1e-4 * expected[name].norm(), name


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_state_that_cannot_be_cut_takes_a_row_for_each_sequence(kind: str) -> None:
    model = make_model(kind, VOCABULARY)
    engine = TrainingEngine(model, OptimizerConfig(zero_stage=0), total_steps=1)
    sequences = random_sequences([17, 3, 25], VOCABULARY)
    rows = engine.rows(sequences, 64)
    assert sorted(row.lengths for row in rows) == [(3,), (17,), (25,)]
    with eager_attention(model):
        expected = [alone(model, sequence, 1.0)[0] for sequence in sequences]
    for row in rows:
        ((index, values),) = row.split(engine.token_logprobs(row))
        torch.testing.assert_close(values.double(), expected[index], rtol=0, atol=1e-5)
