"""The engine in a process of its own: equal samples, weights during running requests, its end."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.generation.beside import PROCESS, BesideGenerator
from tasks.shared.generation.engines import make_generator
from tasks.shared.generation.protocol import Generator, Piece, Sampling
from tasks.shared.learning.checkpoints import load_tokenizer, save_checkpoint
from tests.preloaded.environment import interpreter
from tests.unit.generation.tiny import tiny_model, tiny_tokenizer

MODEL = ModelConfig(source="path", path="/unused", dtype="float32")
CONFIG = GenerationConfig(engine="transformers", placement="beside", max_sequences=2)
MANY = 900  # tokens; long enough for new weights meanwhile


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, tokenizer = tmp_path_factory.mktemp("checkpoint"), tiny_tokenizer()
    save_checkpoint(tiny_model(len(tokenizer)), tokenizer, directory)
    return directory


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is forked from one that has imported what it imports."""
    monkeypatch.setattr(sys, "executable", str(interpreter((PROCESS,))))


def until_ended(generator: Generator) -> list[Piece]:
    pieces = []
    while generator.num_running:
        pieces += generator.step()
    return pieces


@pytest.mark.usefixtures("forked")
def test_samples_and_scores_are_those_of_the_engine_inside(checkpoint: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    ids = tokenizer.encode("print(1 + 2)")
    found = []
    with closing(BesideGenerator(CONFIG, MODEL, checkpoint)) as beside:
        for generator in (make_generator(CONFIG, MODEL, checkpoint, tokenizer), beside):
            generator.add("a", ids, sampling=Sampling(), seed=5, stop=None, max_new_tokens=4)
            first = until_ended(generator)
            generator.extend("a", [7, 8], stop=None, max_new_tokens=3)
            found.append((first, until_ended(generator), generator.score([ids])))
            generator.release("a")
        assert found[0] == found[1]
        beside.add("long", ids, sampling=Sampling(), seed=0, stop=None, max_new_tokens=10**6)
        with pytest.raises(ValueError, match="more than the model's 1024 positions"):
            until_ended(beside)


@pytest.mark.usefixtures("forked")
def test_two_loops_ask_under_names_of_any_form_each_for_itself(checkpoint: Path) -> None:
    with closing(BesideGenerator(CONFIG, MODEL, checkpoint)) as own:
        loops = [own, own.beside()]
        for name in ("evaluation:a", "1:a", "a"):
            for generator, tokens in zip(loops, (3, 5), strict=True):
                generator.add(name, [5, 6], sampling=Sampling(), seed=1, stop=None, max_new_tokens=tokens)
            with ThreadPoolExecutor(2) as threads:
                [[first], [second]] = threads.map(until_ended, loops)
            assert first.request_id == second.request_id == name
            assert (len(first.ids), len(second.ids)) == (3, 5) and first.ids == second.ids[:3]
            own.abort(name)
            if name != "a":
                loops[1].release(name)
        loops[1].extend("a", [7], stop=None, max_new_tokens=2)
        assert [len(piece.ids) for piece in until_ended(loops[1])] == [2]


def test_weights_may_change_during_a_request(checkpoint: Path) -> None:
    """In a started process, which is killed afterwards: no part of it may answer."""
    other = tiny_model(len(tiny_tokenizer()), seed=1)
    with closing(BesideGenerator(CONFIG, MODEL, checkpoint)) as beside:
        for seed in range(2):
            beside.add(str(seed), [5, 6], sampling=Sampling(), seed=seed, stop=None, max_new_tokens=MANY)
        beside.load_weights(other.named_parameters())
        assert beside.differing(other.named_parameters()) == []
        pieces = until_ended(beside)
        for piece in pieces:
            assert sum(count for _, count in piece.versions) == len(piece.ids)
            assert [version for version, _ in piece.versions] in ([0, 1], [1])
        process = beside._process
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(SystemExit) as ended:
            beside.score([[1, 2]])
        assert ended.value.code == 128 + signal.SIGKILL  # as a shell reports it: the stage was not at fault
