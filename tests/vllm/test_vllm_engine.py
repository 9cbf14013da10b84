"""vLLM's CPU build behind the `Generator` protocol: a real engine, tiny random models, tied and untied heads.

Runs in the environment of `make setup-vllm`; `make test-vllm` is the command.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.generation.protocol import Generator, NamesDifferences, Piece, Sampling, Sleeps
from tasks.shared.generation.vllm_engine import VllmGenerator
from tests.unit.generation.pieces import drain, finish
from tests.vllm.models import strong_checkpoint

PROMPTS = [list(range(40, 40 + n)) for n in (5, 9, 17, 30)]
EXACT = 1e-4  # float32: sampler and trainer on the same ids


pytestmark = pytest.mark.timeout(600)  # the first test of an engine waits for its start


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def engine(request, tmp_path_factory):
    """One engine per module and head kind, since a start is slow."""
    directory = strong_checkpoint(tmp_path_factory.mktemp("model"), seed=0, tied=request.param)
    config = GenerationConfig(engine="vllm", max_sequences=160, max_prompt_tokens=64, max_response_tokens=192)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model_config = ModelConfig(source="tiny", dtype="float32")
    return VllmGenerator(config, model_config, directory, [tokenizer.eos_token_id]), directory, request.param


def reference(directory: Path):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


@torch.no_grad()
def reference_logprobs(model, ids: list[int]) -> list[float]:
    log_probs = model(torch.tensor([ids])).logits.log_softmax(-1)[0]
    return [0.0] + [log_probs[i, token].item() for i, token in enumerate(ids[1:])]


def generate(generator: VllmGenerator, stop: str | None = None, max_new_tokens: int = 24) -> dict[str, Piece]:
    for index, prompt in enumerate(PROMPTS):
        generator.add(
            str(index), prompt, sampling=Sampling(), seed=index, stop=stop, max_new_tokens=max_new_tokens
        )
    return finish(generator)


def largest_gap(generator: VllmGenerator, model) -> float:
    """Largest difference of sampled log-probs and scored log-probs to the reference."""
    gap = 0.0
    for index, piece in generate(generator).items():
        ids = PROMPTS[int(index)] + list(piece.ids)
        expected = reference_logprobs(model, ids)
        sampled = expected[len(PROMPTS[int(index)]) :]
        gap = max([gap, *(abs(a - b) for a, b in zip(piece.logprobs, sampled, strict=True))])
        gap = max([gap, *(abs(a - b) for a, b in zip(generator.score([ids])[0], expected, strict=True))])
        generator.release(index)
    return gap


def test_logprobs_equal_the_trainers_before_and_after_every_sync(engine, tmp_path):
    generator, directory, tied = engine
    assert largest_gap(generator, reference(directory)) < EXACT
    for seed in (1, 2):
        model = reference(strong_checkpoint(tmp_path / str(seed), seed, tied))
        assert largest_gap(generator, model) > 0.1, "other weights must show, or this test cannot fail"
        generator.load_weights(model.named_parameters())
        assert largest_gap(generator, model) < EXACT
    generator.load_weights(reference(directory).named_parameters())


def test_an_engine_sleeps_until_it_gets_weights(engine, tmp_path):
    """The calls of a GPU on a real engine. The CPU build frees no memory; tests/gpu checks that."""
    generator, directory, tied = engine
    assert isinstance(generator, Sleeps)
    model = reference(strong_checkpoint(tmp_path, 4, tied))
    generator.sleep()
    assert generator._llm.llm_engine.is_sleeping()
    with pytest.raises(AssertionError, match="load_weights wakes it"):
        generate(generator)
    generator._requests.clear()
    generator.load_weights(model.named_parameters())
    assert not generator._llm.llm_engine.is_sleeping()
    assert largest_gap(generator, model) < EXACT
    generator.load_weights(reference(directory).named_parameters())


def test_the_known_defect_of_reloading_a_tied_head(engine, tmp_path):
    """Without repacking, the head of a tied model stays stale: the reason for `refresh_tied_head`."""
    generator, directory, tied = engine
    path = strong_checkpoint(tmp_path, 3, tied)
    generator._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(path)})
    generator._llm.reset_prefix_cache()
    gap = largest_gap(generator, reference(path))
    assert gap > 0.1 if tied else gap < EXACT
    generator.load_weights(reference(directory).named_parameters())


def test_a_request_goes_on_after_feedback_as_if_never_cut(engine):
    generator, directory, _ = engine
    first = generate(generator, max_new_tokens=8)
    feedback = [50, 51, 52]
    for index in first:
        generator.extend(index, feedback, stop=None, max_new_tokens=8)
    second = finish(generator)
    model = reference(directory)
    for index, piece in second.items():
        context = PROMPTS[int(index)] + list(first[index].ids) + feedback
        expected = reference_logprobs(model, context + list(piece.ids))[len(context) :]
        assert max(abs(a - b) for a, b in zip(piece.logprobs, expected, strict=True)) < EXACT
        generator.release(index)


def test_same_seed_same_tokens_and_stop_strings_end_a_piece(engine):
    generator, directory, _ = engine
    tokenizer = AutoTokenizer.from_pretrained(directory)
    first = generate(generator)
    for index in first:
        generator.release(index)
    again = generate(generator)
    assert {k: p.ids for k, p in again.items()} == {k: p.ids for k, p in first.items()}
    for index in again:
        generator.release(index)
    stop = tokenizer.decode(first["3"].ids[:6])[-2:]
    piece = generate(generator, stop=stop)["3"]
    assert piece.reason == "stop"
    assert stop in tokenizer.decode(piece.ids)
    for index in ("0", "1", "2", "3"):
        generator.release(index)


def test_more_prompt_tokens_at_once_than_one_step_computes(engine):
    """Seeded requests whose prompts together are over vLLM's token budget of a step: none of them is cut."""
    generator, _, _ = engine
    for number in range(160):
        ids = [20 + (number * 7 + place * 3) % 500 for place in range(60)]
        generator.add(str(number), ids, sampling=Sampling(), seed=number, stop=None, max_new_tokens=2)
    assert drain(generator).keys() == {str(number) for number in range(160)}


def test_weights_must_not_change_under_running_requests(engine):
    generator, directory, _ = engine
    generator.add("running", PROMPTS[0], sampling=Sampling(), seed=0, stop=None, max_new_tokens=4)
    with pytest.raises(AssertionError, match="running requests"):
        generator.load_weights(reference(directory).named_parameters())
    drain(generator)


def test_it_is_a_generator_that_names_differences(engine, tmp_path):
    """Only a changed tensor is named."""
    generator, directory, _ = engine
    as_generator: Generator = generator
    assert isinstance(as_generator, NamesDifferences)
    assert generator.differing(reference(directory).named_parameters()) == []
    model = reference(directory)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.mul_(1.5)
    assert generator.differing(model.named_parameters()) == ["model.layers.1.self_attn.qkv_proj.weight"]
    assert generator.differing(model.named_parameters()) == []
    generator.load_weights(reference(directory).named_parameters())


def test_the_stale_copy_of_a_tied_head_is_named(engine, tmp_path):
    generator, directory, tied = engine
    path = strong_checkpoint(tmp_path, 4, tied)
    generator._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(path)})
    expected = ["lm_head.weight (packed copy)"] if tied else []
    assert generator.differing(reference(path).named_parameters()) == expected
    generator.load_weights(reference(directory).named_parameters())


def test_an_empty_feedback_and_a_sequence_of_the_largest_length(engine):
    generator, directory, _ = engine
    model = reference(directory)
    first = generate(generator, max_new_tokens=6)
    for index in first:
        generator.extend(index, [], stop=None, max_new_tokens=6)
    for index, piece in drain(generator).items():
        context = PROMPTS[int(index)] + list(first[index].ids)
        expected = reference_logprobs(model, context + list(piece.ids))[len(context) :]
        assert max(abs(a - b) for a, b in zip(piece.logprobs, expected, strict=True)) < EXACT
    longest = [40 + i % 60 for i in range(64 + 192)]
    gap = max(
        abs(a - b)
        for a, b in zip(generator.score([longest])[0], reference_logprobs(model, longest), strict=True)
    )
    assert gap < EXACT


def test_scoring_must_not_swallow_pieces_of_running_requests(engine):
    generator, _, _ = engine
    generator.add("running", PROMPTS[0], sampling=Sampling(), seed=0, stop=None, max_new_tokens=4)
    with pytest.raises(AssertionError, match="would be lost"):
        generator.score([PROMPTS[1]])
    drain(generator)


def test_too_few_positions_are_one_line(tmp_path):
    directory = strong_checkpoint(tmp_path, 0, True)
    config = GenerationConfig(engine="vllm", max_prompt_tokens=1000, max_response_tokens=1000)
    with pytest.raises(ValueError, match=r"= 2001, but the model has 1024 positions .* lower them by 977"):
        VllmGenerator(config, ModelConfig(source="tiny", dtype="float32"), directory, [0])
