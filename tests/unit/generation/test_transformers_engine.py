"""The embedded engine against Transformers: same tokens, same log-probs, independent rows."""

import math
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from tasks.shared.generation.protocol import Piece, Sampling
from tasks.shared.generation.stops import StopFinder
from tasks.shared.generation.transformers_engine import TransformersGenerator
from tests.unit.generation.architectures import ARCHITECTURES, RECURRENT, make_model
from tests.unit.generation.pieces import drain
from tests.unit.generation.tiny import CORPUS, tiny_model, tiny_tokenizer

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture
def make(tokenizer: PreTrainedTokenizerFast) -> Callable[..., TransformersGenerator]:
    def build(max_sequences: int = 8, **shape: object) -> TransformersGenerator:
        return TransformersGenerator(tiny_model(len(tokenizer), **shape), tokenizer, max_sequences)

    return build


def reference(vocabulary: int) -> Qwen2ForCausalLM:
    return tiny_model(vocabulary)


def prompts(tokenizer: PreTrainedTokenizerFast, count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(1, 40, (count,), generator=generator).tolist()
    return [torch.randint(3, len(tokenizer), (n,), generator=generator).tolist() for n in lengths]


def full_logprobs(model: Qwen2ForCausalLM, ids: list[int], start: int) -> torch.Tensor:
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    return logprobs[start - 1 : -1].gather(1, torch.tensor(ids[start:])[:, None])[:, 0]


def test_greedy_tokens_are_those_of_model_generate(tokenizer, make) -> None:
    generator, model = make(3), reference(len(tokenizer))
    asked = prompts(tokenizer, 10)  # more than slots: rows are admitted as others end
    for i, ids in enumerate(asked):
        generator.add(str(i), ids, sampling=GREEDY, seed=i, stop=None, max_new_tokens=30)
    pieces = drain(generator)
    for i, ids in enumerate(asked):
        with torch.no_grad():
            expected = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[
                0, len(ids) :
            ].tolist()
        assert list(pieces[str(i)].ids) == expected


def test_logprobs_are_those_of_a_full_forward_pass_through_extensions(tokenizer, make) -> None:
    """Rows are parked, moved by compaction and extended with chunks of uneven length; every log-prob is right."""
    generator, model = make(6), reference(len(tokenizer))
    asked = prompts(tokenizer, 12)
    whole = {str(i): list(ids) for i, ids in enumerate(asked)}
    sampled: dict[str, list[tuple[int, float]]] = {name: [] for name in whole}
    parked: list[str] = []
    rounds = dict.fromkeys(whole, 0)
    for i, ids in enumerate(asked):
        generator.add(str(i), ids, sampling=Sampling(), seed=i, stop=None, max_new_tokens=5 + 3 * i)
    steps = 0
    while generator.num_running or parked:
        steps += 1
        for piece in generator.step():
            name = piece.request_id
            sampled[name] += [(len(whole[name]) + k, value) for k, value in enumerate(piece.logprobs)]
            whole[name] += piece.ids
            rounds[name] += 1
            if rounds[name] < 3 and piece.reason == "length":
                parked.append(name)
            else:
                generator.release(name)
        if parked and (steps % 7 == 0 or not generator.num_running):
            name = parked.pop()
            feedback = prompts(tokenizer, int(name) + 1)[-1]
            generator.extend(name, feedback, stop=None, max_new_tokens=4 + int(name))
            whole[name] += feedback
    assert sum(rounds.values()) > 24
    for name, ids in whole.items():
        expected = full_logprobs(model, ids, 1)
        for place, value in sampled[name]:
            assert abs(expected[place - 1].item() - value) < 1e-5


def test_a_request_samples_the_same_alone_and_among_others(tokenizer, make) -> None:
    asked = prompts(tokenizer, 9)

    def sample(which: list[int], slots: int) -> dict[str, Piece]:
        generator = make(slots)
        for i in which:
            generator.add(str(i), asked[i], sampling=Sampling(), seed=100 + i, stop=None, max_new_tokens=40)
        return drain(generator)

    together = sample(list(range(9)), 9)
    for i in range(9):
        alone = sample([i], 1)[str(i)]
        assert alone.ids == together[str(i)].ids
        assert alone.logprobs == pytest.approx(together[str(i)].logprobs, abs=1e-5)
    assert len({together[str(i)].ids for i in range(9)}) == 9


def test_equal_calls_give_equal_bits(tokenizer, make) -> None:
    def sample() -> dict[str, Piece]:
        generator = make(4)
        for i, ids in enumerate(prompts(tokenizer, 9)):
            generator.add(str(i), ids, sampling=Sampling(), seed=i, stop=None, max_new_tokens=25)
        return drain(generator)

    assert sample() == sample()


def test_equal_prompts_share_one_prefill_and_sample_apart(tokenizer, make) -> None:
    ids = prompts(tokenizer, 1)[0]
    generator = make(8)
    for i in range(8):
        generator.add(str(i), ids, sampling=Sampling(), seed=i, stop=None, max_new_tokens=20)
    shared = drain(generator)
    for i in range(8):
        alone = make(1)
        alone.add("x", ids, sampling=Sampling(), seed=i, stop=None, max_new_tokens=20)
        assert drain(alone)["x"].ids == shared[str(i)].ids
    assert len({piece.ids for piece in shared.values()}) == 8


def test_stop_string_ends_the_piece_at_the_token_that_completes_it(tokenizer, make) -> None:
    """The stop string is the text of a greedily decoded token and is found from the text alone."""
    generator = make(2)
    ids = prompts(tokenizer, 1)[0]
    generator.add("free", ids, sampling=GREEDY, seed=0, stop=None, max_new_tokens=12)
    free = drain(generator)["free"].ids
    stop = tokenizer.decode(free[4:6])
    generator.add("stopped", ids, sampling=GREEDY, seed=0, stop=stop, max_new_tokens=12)
    piece = drain(generator)["stopped"]
    assert piece.reason == "stop"
    assert piece.ids == free[: len(piece.ids)]
    assert stop in tokenizer.decode(piece.ids)
    assert stop not in tokenizer.decode(piece.ids[:-1])


def test_end_of_turn_and_length(tokenizer, make) -> None:
    """With equal logits greedy decoding takes id 0, the end of turn; the piece carries that token."""
    generator, flat = make(1), tiny_model(len(tokenizer)).state_dict()
    flat["model.norm.weight"] = torch.zeros_like(flat["model.norm.weight"])
    generator.load_weights(flat.items())
    generator.add("a", [5, 6], sampling=GREEDY, seed=0, stop=None, max_new_tokens=9)
    piece = drain(generator)["a"]
    assert (piece.ids, piece.reason) == ((0,), "eos")
    assert piece.logprobs[0] == pytest.approx(-math.log(len(tokenizer)), abs=1e-5)
    generator = make(1)
    generator.add("b", [5, 6], sampling=Sampling(), seed=0, stop=None, max_new_tokens=3)
    piece = drain(generator)["b"]
    assert (len(piece.ids), piece.reason) == (3, "length")


def test_weights_are_taken_over_tied_or_not(tokenizer, make) -> None:
    ids = prompts(tokenizer, 1)[0] + [9, 8, 7]
    for tied in (True, False):
        generator = make(1, tied=tied)
        trained = tiny_model(len(tokenizer), tied=tied, seed=5)
        generator.load_weights(trained.named_parameters())
        assert generator.score([ids])[0][1:] == pytest.approx(
            full_logprobs(trained, ids, 1).tolist(), abs=1e-5
        )
    both_names = tiny_model(len(tokenizer), seed=6)
    generator = make(1, tied=True)
    generator.load_weights(both_names.state_dict().items())
    assert generator.score([ids])[0][1:] == pytest.approx(
        full_logprobs(both_names, ids, 1).tolist(), abs=1e-5
    )


def test_weight_sync_refuses_what_is_missing_unknown_or_torn(tokenizer, make) -> None:
    state = tiny_model(len(tokenizer), seed=5).state_dict()
    without = {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}
    with pytest.raises(ValueError, match=r"nothing came for model\.norm\.weight"):
        make(1).load_weights(without.items())
    with pytest.raises(ValueError, match="no such tensor"):
        make(1).load_weights({**state, "model.extra": state["model.norm.weight"]}.items())
    torn = {**state, "lm_head.weight": state["lm_head.weight"] + 1}
    with pytest.raises(ValueError, match="tied in the sampler but came with different values"):
        make(1).load_weights(torn.items())


def test_requests_that_cannot_fit_are_refused(tokenizer, make) -> None:
    with pytest.raises(ValueError, match="more than the model's 1024 positions"):
        make(1).add("a", [1] * 1000, sampling=GREEDY, seed=0, stop=None, max_new_tokens=25)
    generator = make(1)
    generator.add("a", [1], sampling=GREEDY, seed=0, stop=None, max_new_tokens=1)
    with pytest.raises(ValueError, match="alive already"):
        generator.add("a", [1], sampling=GREEDY, seed=0, stop=None, max_new_tokens=1)


def test_running_requests_record_the_weights_of_each_token(tokenizer, make) -> None:
    """Rows before the change have the old weights; the prompt of a later request is computed with the new."""
    generator, other = make(2), tiny_model(len(tokenizer), seed=1)
    generator.add("old", [5, 6], sampling=GREEDY, seed=0, stop=None, max_new_tokens=6)
    for _ in range(3):
        assert generator.step() == []
    generator.load_weights(other.state_dict().items())
    generator.add("new", [5, 6], sampling=GREEDY, seed=0, stop=None, max_new_tokens=6)
    pieces = drain(generator)
    assert pieces["old"].versions == ((0, 3), (1, 3)) and pieces["new"].versions == ((1, 6),)
    for name, model, count in (("old", reference(len(tokenizer)), 3), ("new", other, 6)):
        expected = full_logprobs(model, [5, 6, *pieces[name].ids], 2)[:count]
        assert torch.allclose(expected, torch.tensor(pieces[name].logprobs[:count]).double(), atol=1e-5)


def test_stop_strings_that_tokens_straddle(tokenizer) -> None:
    for stop in ("</code>", "```output"):
        finder = StopFinder(tokenizer, stop)
        for text in CORPUS:
            ids = tokenizer.encode(text)
            found = [n for n in range(1, len(ids) + 1) if finder.found(ids[:n])]
            first = next((n for n in range(1, len(ids) + 1) if stop in tokenizer.decode(ids[:n])), None)
            assert (found[0] if found else None) == first


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_each_architecture_decodes_as_it_computes_itself(tokenizer, kind: str) -> None:
    """Prompts longer than any window, inserted feedback and sampled tokens, beside another row."""
    model = make_model(kind, len(tokenizer))
    generator = TransformersGenerator(make_model(kind, len(tokenizer)), tokenizer, 3)
    asked = prompts(tokenizer, 3)
    feedback = prompts(tokenizer, 2)[1][:9]
    whole = {str(i): list(ids) for i, ids in enumerate(asked)}
    sampled: list[tuple[str, int, float]] = []
    for i, ids in enumerate(asked):
        generator.add(str(i), ids, sampling=Sampling(), seed=i, stop=None, max_new_tokens=4 + 3 * i)
    extended: set[str] = set()
    while generator.num_running:
        for piece in generator.step():
            name = piece.request_id
            sampled += [(name, len(whole[name]) + k, value) for k, value in enumerate(piece.logprobs)]
            whole[name] += piece.ids
            if name not in extended and piece.reason == "length":
                extended.add(name)
                whole[name] += feedback
                generator.extend(name, feedback, stop=None, max_new_tokens=7)
            else:
                generator.release(name)
    expected = {name: full_logprobs(model, ids, 1) for name, ids in whole.items()}
    assert extended and len(sampled) > 20
    for name, place, value in sampled:
        assert abs(expected[name][place - 1].item() - value) < 1e-5
    for ids, scores in zip(whole.values(), generator.score(list(whole.values())), strict=True):
        assert scores[1:] == pytest.approx(full_logprobs(model, ids, 1).tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_state_without_a_cache_of_keys_is_refused(tokenizer, kind: str) -> None:
    with pytest.raises(ValueError, match=r"decodes attention alone: set generation\.engine = 'vllm'"):
        TransformersGenerator(make_model(kind, len(tokenizer)), tokenizer, 1)
