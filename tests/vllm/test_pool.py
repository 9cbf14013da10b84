"""A pool of real servers of vLLM's CPU build: tokens, samples, weights, a killed server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.rl.probe import WeightsDiffer, probe
from tasks.shared.config import GenerationConfig, ModelConfig, OptimizerConfig, PoolConfig
from tasks.shared.generation.engines import open_generator
from tasks.shared.generation.pool.client import Client
from tasks.shared.generation.pool.generator import PoolGenerator
from tasks.shared.generation.pool.server import PoolFailed, ServerProcess, plan_servers
from tasks.shared.generation.protocol import Piece, Sampling
from tasks.shared.learning.engine import TrainingEngine
from tests.unit.generation.pieces import finish
from tests.vllm.models import strong_checkpoint

pytestmark = pytest.mark.timeout(1200)

EXACT = 1e-4  # float32: sampler and trainer on the same ids
MODEL = ModelConfig(source="tiny", dtype="float32")
LIMITS = {"engine": "vllm", "max_sequences": 16, "max_prompt_tokens": 64, "max_response_tokens": 192}
TOKEN, VARIABLE = "a token of the tests", "POOL_TEST_TOKEN"
PROMPTS = [list(range(40 + n, 50 + n)) for n in range(24)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return strong_checkpoint(tmp_path_factory.mktemp("model"), 0)


@pytest.fixture(scope="module")
def addresses(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two servers that outlive their pools, since a start is slow."""
    config = GenerationConfig(placement="pool", pool=PoolConfig(servers=2), **LIMITS)
    servers = plan_servers(
        config,
        MODEL,
        checkpoint,
        num_taken=0,
        listen="127.0.0.1",
        token=TOKEN,
        directory=tmp_path_factory.mktemp("servers"),
    )
    yield [server.start() for server in servers]
    for server in servers:
        server.stop()


@contextmanager
def pool_of(
    addresses: list[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN
) -> Iterator[PoolGenerator]:
    monkeypatch.setenv(VARIABLE, token)
    pool = PoolConfig(addresses=tuple(addresses), key_variable=VARIABLE)
    config = GenerationConfig(placement="pool", pool=pool, **LIMITS)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with open_generator(config, MODEL, checkpoint, tokenizer, scratch=checkpoint) as generator:
        assert isinstance(generator, PoolGenerator)
        yield generator


def sample(generator: PoolGenerator, max_new_tokens: int = 40) -> dict[str, Piece]:
    for index, prompt in enumerate(PROMPTS):
        generator.add(
            str(index), prompt, sampling=Sampling(), seed=index, stop=None, max_new_tokens=max_new_tokens
        )
    return finish(generator)


def engine_of(checkpoint: Path) -> TrainingEngine:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return TrainingEngine(model, OptimizerConfig(zero_stage=0), total_steps=1)


def test_nothing_is_answered_without_the_token(addresses: list[str]) -> None:
    paths = [
        "/health",
        "/pause",
        "/collective_rpc",
        "/weight_checker",
        "/v1/models",
        "/inference/v1/generate",
        "/",
    ]

    async def statuses() -> list[int]:
        async with aiohttp.ClientSession() as session:
            found = []
            for token in ("", "Bearer", f"Bearer {TOKEN}x", TOKEN):
                for path in paths:
                    headers = {"Authorization": token} if token else {}
                    async with session.post(addresses[0] + path, headers=headers, json={}) as reply:
                        found.append(reply.status)
            return found

    wait_for(addresses)
    assert set(asyncio.run(statuses())) == {401}


def wait_for(addresses: list[str]) -> None:
    """Wait until each server answers requests with the token."""

    async def wait() -> None:
        async with aiohttp.ClientSession() as session:
            for address in addresses:
                while not await Client(session, address, TOKEN).is_healthy():
                    await asyncio.sleep(0.2)

    asyncio.run(wait())


def test_the_same_samples_from_one_server_and_from_two(addresses, checkpoint, monkeypatch):
    with pool_of(addresses, checkpoint, monkeypatch) as two:
        of_two = sample(two)
        assert len({id(ask.member) for ask in two._asks.values()}) == 2, "both were asked"
    with pool_of(addresses[1:], checkpoint, monkeypatch) as one:
        of_one = sample(one)
    assert {k: piece.ids for k, piece in of_two.items()} == {k: piece.ids for k, piece in of_one.items()}
    for index, piece in of_one.items():
        assert piece.versions == ((0, len(piece.ids)),)
        assert piece.logprobs == pytest.approx(of_two[index].logprobs, abs=EXACT)


def test_later_turns_go_to_the_server_with_their_prefix(addresses, checkpoint, monkeypatch):
    with pool_of(addresses, checkpoint, monkeypatch) as generator:
        first = sample(generator, max_new_tokens=8)
        before = {index: generator._asks[index].member for index in first}
        for index in first:
            generator.extend(index, [50, 51, 52], stop=None, max_new_tokens=8)
        second = finish(generator)
        assert {index: generator._asks[index].member for index in second} == before
        whole = {
            i: PROMPTS[int(i)] + list(p.ids) + [50, 51, 52] + list(second[i].ids) for i, p in first.items()
        }
        scores = generator.score([whole[index] for index in sorted(whole)])
    for index, scored in zip(sorted(whole), scores, strict=True):
        assert second[index].logprobs == pytest.approx(scored[-len(second[index].ids) :], abs=EXACT)


def test_every_server_has_the_trainers_weights_after_a_push(addresses, checkpoint, monkeypatch, tmp_path):
    engine = engine_of(strong_checkpoint(tmp_path, 1))
    with pool_of(addresses, checkpoint, monkeypatch) as generator:
        with pytest.raises(WeightsDiffer, match=r"tensors that differ: http://.*, worker 0: model\."):
            probe(
                engine, generator, PROMPTS, EXACT, row_tokens=512
            )  # naming differences pushes the trainer's weights
        for _ in addresses:  # one server in turn
            generator.load_weights(engine.weights())
            assert probe(engine, generator, PROMPTS, EXACT, row_tokens=512).largest < EXACT
        pieces = sample(generator)
        assert {version for piece in pieces.values() for version, _ in piece.versions} == {3}


def test_a_server_that_holds_other_weights_is_named(addresses, checkpoint, monkeypatch, tmp_path):
    """Each server's weights are changed in turn: the one that the probe asks, and the other."""
    changed = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        changed.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-3  # too small for a difference of log-probs
    changed.save_pretrained(tmp_path)
    engine = engine_of(checkpoint)
    with pool_of(addresses, checkpoint, monkeypatch) as generator:
        for place in (0, 1):
            generator.load_weights(engine.weights())
            member = generator._pool.members[place]
            spoil = member.client.take_weights([str(tmp_path / "model.safetensors")], generator._pool.version)
            generator._call(spoil)
            with pytest.raises(
                WeightsDiffer,
                match=r"servers hold different weights: http.*layers\.2\.mlp\.down_proj\.weight",
            ):
                probe(engine, generator, PROMPTS, 0.05, row_tokens=512)


def test_requests_continue_while_weights_are_pushed(addresses, checkpoint, monkeypatch, tmp_path):
    engine = engine_of(strong_checkpoint(tmp_path, 2))
    with pool_of(addresses, checkpoint, monkeypatch) as generator:
        for version in range(1, 6):  # on a busy machine all may end before the first push
            later = sampled_through_a_push(generator, engine)
            for piece in later.values():
                assert sum(count for _, count in piece.versions) == len(piece.ids)
                expected = [version - 1], [version - 1, version], [version]
                assert [held for held, _ in piece.versions] in expected
            if any(len(piece.versions) == 2 for piece in later.values()):
                return
            for index in map(str, range(32)):
                generator.release(index)
    pytest.fail("no request ran through a push")


def sampled_through_a_push(generator: PoolGenerator, engine: TrainingEngine) -> dict[str, Piece]:
    """The pieces of 31 long requests. Weights are pushed when the short one has ended."""
    for index in range(32):
        generator.add(
            str(index),
            PROMPTS[0],
            sampling=Sampling(),
            seed=index,
            stop=None,
            max_new_tokens=190 if index else 4,
        )
    pieces: list[Piece] = []
    while not pieces:
        pieces = generator.step()
    generator.load_weights(engine.weights())
    return finish(generator)


def test_a_server_of_another_stage_is_refused(addresses, checkpoint, monkeypatch):
    with pool_of(addresses[:1], checkpoint, monkeypatch) as first:
        sample(first)
        with pool_of(addresses[:1], checkpoint, monkeypatch) as second:
            second.wait()
            for index in first._requests:
                first.extend(index, [50], stop=None, max_new_tokens=4)
            with pytest.raises(ValueError, match="let it serve one stage at a time"):
                finish(first)


def test_a_wrong_token_is_an_error(addresses, checkpoint, monkeypatch):
    with (
        pool_of(addresses[:1], checkpoint, monkeypatch, token="another") as generator,
        pytest.raises(ValueError, match=r"rejects the token that generation\.pool\.key_variable"),
    ):
        sample(generator)


@pytest.mark.long  # an asynchronous round shows it too: test_rl_ahead.py
def test_a_killed_server_is_restarted_and_asked_again(checkpoint, tmp_path):
    """A pool of the stage's own: the samples are those of an undisturbed run, the weights the last pushed."""
    config = GenerationConfig(placement="pool", pool=PoolConfig(restarts=1), **LIMITS)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    engine = engine_of(strong_checkpoint(tmp_path / "trained", 3))
    with open_generator(config, MODEL, checkpoint, tokenizer, scratch=tmp_path) as generator:
        generator.load_weights(engine.weights())
        undisturbed = sample(generator)
        for index in undisturbed:
            generator.release(index)
        for index, prompt in enumerate(PROMPTS):
            generator.add(str(index), prompt, sampling=Sampling(), seed=index, stop=None, max_new_tokens=40)
        pieces: dict[str, Piece] = {}
        while not pieces:
            pieces = {piece.request_id: piece for piece in generator.step()}
        kill(generator._pool.members[0].server)
        pieces |= finish(generator)
        assert {k: p.ids for k, p in pieces.items()} == {k: p.ids for k, p in undisturbed.items()}
        assert probe(engine, generator, PROMPTS, EXACT, row_tokens=512).largest < EXACT
        for index in pieces:
            generator.release(index)
        kill(generator._pool.members[0].server)
        with pytest.raises(PoolFailed, match=r"server-0 died 2 times \(generation.pool.restarts = 1\)"):
            sample(generator)


def kill(server: ServerProcess) -> None:
    """SIGKILL to the process that answers, as the out-of-memory killer would."""
    guard = psutil.Process(server._running._process.pid)
    guard.children()[0].kill()


def test_a_server_that_cannot_start_says_why(checkpoint, tmp_path):
    limits = LIMITS | {"gpu_memory_utilization": 0.01}
    config = GenerationConfig(placement="pool", pool=PoolConfig(quantization="fp8"), **limits)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with (
        open_generator(config, MODEL, checkpoint, tokenizer, scratch=tmp_path) as generator,
        pytest.raises(PoolFailed, match=r"server-0 does not start; its log .* ends: .*fp8"),
    ):
        generator.load_weights([])
