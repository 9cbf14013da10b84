"""A pool of real servers of vLLM's CPU build: who may ask, what is sampled, weights, a server killed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.rl.probe import WeightsDiffer, probe
from tasks.shared.config import GenerationConfig, ModelConfig, OptimizerConfig, PoolConfig, TinyModel
from tasks.shared.generation.engines import open_generator
from tasks.shared.generation.pool.generator import PoolGenerator
from tasks.shared.generation.pool.members import PoolFailed
from tasks.shared.generation.pool.server import ServerProcess, plan_servers
from tasks.shared.generation.protocol import Piece, Sampling
from tasks.shared.generation.vllm_options import engine_options
from tasks.shared.learning.engine import TrainingEngine

pytestmark = pytest.mark.timeout(1200)

EXACT = 1e-4  # float32: sampler and trainer on the same ids
MODEL = ModelConfig(source="tiny", dtype="float32")
LIMITS = {"engine": "vllm", "max_sequences": 16, "max_prompt_tokens": 64, "max_response_tokens": 192}
TOKEN, VARIABLE = "a token of the tests", "POOL_TEST_TOKEN"
PROMPTS = [list(range(40 + n, 50 + n)) for n in range(24)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return strong(tmp_path_factory.mktemp("model"), 0)


def strong(directory: Path, seed: int) -> Path:
    """A random checkpoint with strong logits and a tied head, so that a stale tensor cannot hide."""
    make_tiny_checkpoint(TinyModel(), seed, directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def addresses(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two servers that outlive the pools which ask them: starting one is what takes the time."""
    config = GenerationConfig(placement="pool", pool=PoolConfig(servers=2), **LIMITS)
    servers = plan_servers(
        config.pool,
        engine_options(config, MODEL, checkpoint, on_gpu=False),
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
    addresses: list[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PoolGenerator]:
    monkeypatch.setenv(VARIABLE, TOKEN)
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


def finish(generator: PoolGenerator) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    while generator.num_running:
        pieces |= {piece.request_id: piece for piece in generator.step()}
    return pieces


def engine_of(checkpoint: Path) -> TrainingEngine:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return TrainingEngine(model, OptimizerConfig(zero_stage=0), total_steps=1)


@pytest.mark.parametrize("path", ["/health", "/pause", "/collective_rpc", "/weight_checker", "/v1/models"])
async def answer_without(address: str, path: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(address + path, headers=headers, json={}) as reply,
    ):
        return reply.status


def test_the_same_samples_from_one_server_and_from_two(addresses, checkpoint, monkeypatch):
    with pool_of(addresses, checkpoint, monkeypatch) as two:
        of_two = sample(two)
        assert {len(member.tasks) for member in two._pool.members} == {0}
    with pool_of(addresses[1:], checkpoint, monkeypatch) as one:
        of_one = sample(one)
    assert {k: piece.ids for k, piece in of_two.items()} == {k: piece.ids for k, piece in of_one.items()}
    for index, piece in of_one.items():
        assert piece.versions == ((0, len(piece.ids)),)
        assert piece.logprobs == pytest.approx(of_two[index].logprobs, abs=EXACT)
