"""What the pool's client costs, and what a second server brings.

    OMP_NUM_THREADS=1 .venv-vllm/bin/python -m benchmarks.pool

Client: a tiny model, whose server samples more than any real one: 256 rows through
`PoolGenerator`, and through a bare load generator that posts the same bodies and throws the answers away. Servers: a
random model of SmolLM2-135M's body, whose decoding is what takes the time, as an evaluation samples it, on one server
and on two, each on a core of its own and filled as `generation.max_sequences` says. What is compared runs in turn, so
that noise of the machine falls on all alike; a ratio is taken within its round. Writes benchmarks/results/pool.md;
about 10 minutes on two idle cores.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.random_work import make_qwen2
from benchmarks.record import benchmark_options, markdown_table, write_page
from benchmarks.rounds import quartiles
from data.models import find_model
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.shared.config import (
    GenerationConfig,
    ModelConfig,
    PoolConfig,
    SandboxConfig,
    TinyModel,
    TracesConfig,
)
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.pool.client import open_session
from tasks.shared.generation.pool.generator import PoolGenerator
from tasks.shared.generation.pool.members import Member
from tasks.shared.generation.pool.server import plan_servers, stop_all
from tasks.shared.generation.protocol import Sampling
from tasks.shared.generation.vllm_options import sampling_options
from tasks.shared.learning.checkpoints import load_tokenizer, save_checkpoint

MODEL = ModelConfig(source="tiny", dtype="float32")
ROWS, TOKENS = 256, 160  # of the client's part
SAMPLES, SAMPLE_TOKENS = 192, 64  # of the servers' part
SEQUENCES = 48  # side by side in each server, as long as there are samples for it
TOKEN = "of the benchmark"
BAR_CLIENT, BAR_SERVERS = 0.95, 1.7


def main() -> None:
    """Measure and write the page."""
    options = benchmark_options(__doc__, rounds=7).parse_args()
    with tempfile.TemporaryDirectory() as root:
        client, rates = client_rounds(Path(root), options.rounds)
        servers = server_rounds(Path(root), options.rounds)
    rows = [
        ["tokens/s through the client over a bare load generator's", quartiles(client), f"{BAR_CLIENT}"],
        ["evaluation samples/s of two servers over one's", quartiles(servers), f"{BAR_SERVERS}"],
    ]
    about = (
        f"the client's part: {ROWS} rows of at most {TOKENS} tokens, {statistics.median(rates):.0f} tokens/s"
    )
    table = markdown_table(["ratio", "median and quartiles", "wanted at least"], rows)
    write_page("pool", "The pool of samplers", [about], ["", *table], options.dry)


def client_rounds(root: Path, rounds: int) -> tuple[list[float], list[float]]:
    """The client's rate over the bare one, and that one, round by round."""
    make_tiny_checkpoint(TinyModel(), 0, root / "tiny")
    ratios, rates = [], []
    with ExitStack() as stack:
        (url,) = stack.enter_context(served(root / "tiny", 1, ROWS, TOKENS))
        generator = stack.enter_context(asked([url], root / "tiny", ROWS))
        through_client(generator), asyncio.run(bare(url))  # warm
        for number in range(rounds):
            seconds, tokens = through_client(generator)
            bare_s = asyncio.run(bare(url))
            ratios.append(bare_s / seconds)
            rates.append(tokens / bare_s)
            print(
                f"client, round {number}: {seconds:.1f} s, bare {bare_s:.1f} s, {tokens} tokens", flush=True
            )
    return ratios, rates


def server_rounds(root: Path, rounds: int) -> list[float]:
    """Samples a second of two servers over one's, round by round."""
    make_tiny_checkpoint(TinyModel(), 0, root / "tiny")
    model = make_qwen2(
        replace(find_model("HuggingFaceTB/SmolLM2-135M-Instruct").shape, vocabulary=640, positions=1024)
    )
    save_checkpoint(model, load_tokenizer(root / "tiny"), root / "larger")
    ratios = []
    with ExitStack() as stack:
        urls = stack.enter_context(served(root / "larger", 2, SEQUENCES, SAMPLE_TOKENS))
        for number in range(rounds + 1):
            found = []
            for part in (urls[:1], urls):
                with asked(part, root / "larger", SEQUENCES) as generator:
                    found.append(evaluate(generator, root / "larger"))
            (one, of_one), (two, of_two) = found
            assert of_one == of_two, "two servers must sample what one does"
            print(f"servers, round {number}: {two:.2f} and {one:.2f} samples/s", flush=True)
            if number:  # the first warms them
                ratios.append(two / one)
    return ratios


@contextmanager
def served(checkpoint: Path, servers: int, rows: int, tokens: int) -> Iterator[list[str]]:
    """Servers of the model, a core each; their URLs."""
    limits = {"max_sequences": rows, "max_prompt_tokens": 64, "max_response_tokens": tokens}
    started = plan_servers(
        GenerationConfig(placement="pool", pool=PoolConfig(servers=servers), **limits),
        MODEL,
        checkpoint,
        num_taken=2 - servers,
        listen="127.0.0.1",
        token=TOKEN,
        directory=checkpoint.with_name("servers"),
    )
    try:
        yield [server.start() for server in started]
    finally:
        stop_all(started)


@contextmanager
def asked(urls: Sequence[str], checkpoint: Path, rows: int) -> Iterator[PoolGenerator]:
    """A pool of running servers, which answer."""
    generator = PoolGenerator(
        [Member(url, None, url=url) for url in urls],
        TOKEN,
        slots=rows,
        eos_ids=[],
        paths=[str(path) for path in sorted(checkpoint.glob("*.safetensors"))],
    )
    try:
        generator.wait()
        yield generator
    finally:
        generator.close()


def through_client(generator: PoolGenerator) -> tuple[float, int]:
    """Seconds, and tokens: a row may end its turn before."""
    started = time.perf_counter()
    for row in range(ROWS):
        generator.add(str(row), _prompt(row), sampling=Sampling(), seed=row, stop=None, max_new_tokens=TOKENS)
    tokens = 0
    while generator.num_running:
        for piece in generator.step():
            tokens += len(piece.ids)
            generator.release(piece.request_id)
    return time.perf_counter() - started, tokens


async def bare(url: str) -> float:
    """Seconds of a loop that only sends and receives; the seeds are the same, and so is what is sampled."""
    encoder = msgspec.json.Encoder()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    async with open_session() as session:

        async def ask(row: int) -> None:
            options = sampling_options(Sampling(), row, 0, None, TOKENS, [])
            body = encoder.encode(
                {"token_ids": _prompt(row), "sampling_params": options, "cache_salt": "bare"}
            )
            async with session.post(f"{url}/inference/v1/generate", data=body, headers=headers) as reply:
                assert reply.status == 200
                await reply.read()

        started = time.perf_counter()
        await asyncio.gather(*(ask(row) for row in range(ROWS)))
        return time.perf_counter() - started


def evaluate(generator: PoolGenerator, checkpoint: Path) -> tuple[float, dict[str, tuple[int, ...]]]:
    """Samples a second as evaluation takes them, and what was sampled."""
    generation = GenerationConfig(placement="pool", max_prompt_tokens=64, max_response_tokens=SAMPLE_TOKENS)
    traces = TracesConfig(dialect="text", max_calls=0)  # a random model writes no code
    policy = RolloutPolicy.of(traces, SandboxConfig(), generation, Sampling())
    requests = [RolloutRequest(str(n), 0, tuple(_prompt(n)), seed=n) for n in range(SAMPLES)]
    started = time.perf_counter()
    done = list(rollout(requests, generator, None, load_tokenizer(checkpoint), policy))
    rate = len(done) / (time.perf_counter() - started)
    return rate, {trajectory.problem_id: trajectory.response_ids for trajectory in done}


def _prompt(row: int) -> list[int]:
    return [20 + (row * 7 + place * 3) % 500 for place in range(32)]


if __name__ == "__main__":
    main()
