"""Measures the sandbox against its bars and its references: python -m benchmarks.sandbox

Every round runs each system on each program; figures are medians over rounds. Writes benchmarks/results/sandbox.md.
About 5 minutes.

The references are `python -c`, with and without bwrap, and the floor: a warm interpreter (same libraries, used once,
garbage collector frozen) that forks a child. The child runs the program with its output in a pipe and exits; the parent
reads the pipe and waits. There is no isolation at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import platform
import select
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial

import numpy as np

from benchmarks.record import benchmark_options, markdown_table, write_page
from benchmarks.rounds import timed
from tasks.shared.sandbox import Interpreter, SandboxClient, SandboxSettings, Status

PROGRAMS = {
    "a": "print(1+1)",
    "b": "import sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x**2 - 3*x + 2, x))",
    "c": (
        "import time\nend = time.thread_time() + 0.02\nn = 0\nwhile time.thread_time() < end:\n    n += 1\n"
        "print(n > 0)"
    ),
}
CONCURRENCY = 16
QUEUES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # numbers of clients
NUM_TAIL = 10_000  # calls over which p99 and p50 are taken

# puts bubblewrap around a command
BWRAP = (
    "bwrap --unshare-all --die-with-parent --new-session --ro-bind / / --tmpfs /tmp --proc /proc --dev /dev"
)


def warm() -> None:
    """Import what the sandbox preloads and use it once."""
    import sympy

    x = sympy.symbols("x")
    str(sympy.solve(x**2 - 5 * x + 6, x))
    np.linalg.solve(np.eye(2), np.ones(2))
    gc.collect()
    gc.freeze()


def fork_once(code: str) -> str:
    """The floor, one program."""
    return _finish(*_start(code))


def _start(code: str) -> tuple[int, int]:
    """Fork a child that runs `code`; returns its pid and the read end of its output."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        captured = io.StringIO()
        with contextlib.redirect_stdout(captured):
            exec(compile(code, "main.py", "exec"), {"__name__": "__main__"})
        os.write(write_end, captured.getvalue().encode())
        os._exit(0)
    os.close(write_end)
    return pid, read_end


def _finish(pid: int, read_end: int) -> str:
    output = os.read(read_end, 65536)
    os.waitpid(pid, 0)
    os.close(read_end)
    return output.decode()


def fork_many(code: str, num_programs: int, concurrency: int) -> float:
    """The floor's programs per second with `concurrency` children alive.

    One fork of this warm process for each processor forks them.
    """
    num_forkers = os.cpu_count() or 1
    started = time.perf_counter()
    forkers: list[int] = []
    for _ in range(num_forkers):
        pid = os.fork()
        if pid == 0:
            _keep_in_flight(code, num_programs // num_forkers, max(1, concurrency // num_forkers))
            os._exit(0)
        forkers.append(pid)
    for pid in forkers:
        os.waitpid(pid, 0)
    return num_programs / (time.perf_counter() - started)


def _keep_in_flight(code: str, num_programs: int, concurrency: int) -> None:
    running: dict[int, int] = {}
    poll = select.poll()
    left = num_programs
    while left or running:
        while left and len(running) < concurrency:
            pid, read_end = _start(code)
            running[read_end] = pid
            poll.register(read_end, select.POLLIN | select.POLLHUP)
            left -= 1
        for read_end, _ in poll.poll():
            poll.unregister(read_end)
            _finish(running.pop(read_end), read_end)


def subprocess_once(code: str, prefix: str = "") -> str:
    """`python -c` in a fresh process, perhaps under bubblewrap."""
    command = [*prefix.split(), sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Bench:
    """Holds the connection to a server and collects samples by name."""

    def __init__(self, client: SandboxClient, scale: float) -> None:
        self.client, self.scale = client, scale
        self.samples: dict[str, list[float]] = {}

    def note(self, name: str, values: list[float]) -> None:
        """Keep the median of a burst as one sample."""
        self.samples.setdefault(name, []).append(statistics.median(values))

    async def run(self, code: str, session: str | None = None) -> float:
        """Milliseconds of one round trip; the program must succeed."""
        started = time.perf_counter()
        result = await self.client.run(code, session)
        milliseconds = 1e3 * (time.perf_counter() - started)
        assert result.status is Status.OK, result
        return milliseconds

    async def burst(self, code: str, num_programs: int, concurrency: int) -> tuple[float, list[float]]:
        """Programs per second, and every latency in ms, with `concurrency` clients that ask in turn."""
        left = num_programs
        latencies: list[float] = []

        async def one_client() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                latencies.append(await self.run(code))

        started = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(concurrency)))
        return num_programs / (time.perf_counter() - started), latencies

    async def latency_round(self) -> None:
        """Every system on every program, one at a time."""
        session = await self.client.open_session()
        num = max(3, int(20 * self.scale))
        for name, code in PROGRAMS.items():
            references = {"floor": (num, partial(fork_once, code))}
            references["python -c"] = (3, partial(subprocess_once, code))
            if shutil.which("bwrap"):
                references["bwrap"] = (3, partial(subprocess_once, code, BWRAP))
            for reference, (count, call) in references.items():
                self.note(f"{reference} {name} ms", [1e3 * timed(call)[0] for _ in range(count)])
            self.note(f"sandbox {name} ms", [await self.run(code) for _ in range(num)])
            self.note(f"session {name} ms", [await self.run(code, session) for _ in range(num)])
        await self.client.close_session(session)

    async def throughput_round(self) -> None:
        """Floor, sandbox and `python -c` at 16 clients."""
        for name, number in (("a", 400), ("b", 150)):
            number = max(32, int(number * self.scale))
            self.note(f"floor {name} /s", [fork_many(PROGRAMS[name], number, CONCURRENCY)])
            per_second, _ = await self.burst(PROGRAMS[name], number, CONCURRENCY)
            self.note(f"sandbox {name} /s", [per_second])
        self.note("python -c b /s", [subprocess_throughput(PROGRAMS["b"], 16)])


def subprocess_throughput(code: str, num_programs: int) -> float:
    """`python -c` programs per second, all at once."""

    def run_all() -> None:
        command = [sys.executable, "-c", code]
        for process in [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(num_programs)]:
            process.communicate()

    return num_programs / timed(run_all)[0]


async def measure(address: str, rounds: int, scale: float) -> tuple[dict[str, float], dict[int, float]]:
    """Figures by name, and the median latency in ms by the number of clients that wait for each other."""
    bench = Bench(await SandboxClient.connect(address), scale)
    await bench.burst(PROGRAMS["a"], 64, 8)
    for number in range(rounds):
        await bench.latency_round()
        await bench.throughput_round()
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    figures = {name: statistics.median(values) for name, values in bench.samples.items()}
    _, tail = await bench.burst(PROGRAMS["a"], int(NUM_TAIL * scale), CONCURRENCY)
    figures["tail p50 ms"], figures["tail p99 ms"] = map(float, np.percentile(tail, (50, 99)))
    queue = {}
    for concurrency in QUEUES:
        _, latencies = await bench.burst(PROGRAMS["a"], max(200, 3 * concurrency), concurrency)
        queue[concurrency] = statistics.median(latencies)
    await bench.client.close()
    return figures, queue


def bars(figures: dict[str, float], queue: dict[int, float]) -> list[tuple[str, str, str, str]]:
    """(what, measured, bar, whether held) for each bar of the project."""
    at_most = [
        ("(a) latency over the floor", figures["sandbox a ms"] / figures["floor a ms"], 1.6),
        ("(b) latency over the warm floor", figures["sandbox b ms"] / figures["floor b ms"], 1.2),
        ("a block of a living session over (a)", figures["session a ms"] / figures["sandbox a ms"], 0.7),
        ("(a) p99 over p50, at 16 clients", figures["tail p99 ms"] / figures["tail p50 ms"], 5.0),
        ("cost of a client in queue, 512 over 64 clients", (queue[512] / 512) / (queue[64] / 64), 1.25),
    ]
    at_least = [
        ("(a) throughput over the floor's", figures["sandbox a /s"] / figures["floor a /s"], 0.75),
        ("(b) throughput over python -c", figures["sandbox b /s"] / figures["python -c b /s"], 33.0),
    ]
    rows = [(what, ratio, f"at most {bar:g}", ratio <= bar) for what, ratio, bar in at_most]
    rows += [(what, ratio, f"at least {bar:g}", ratio >= bar) for what, ratio, bar in at_least]
    return [(what, f"{ratio:.2f}", bar, "yes" if held else "no") for what, ratio, bar, held in rows]


def main() -> None:
    """Measure and write."""
    parser = benchmark_options(__doc__, rounds=12)
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: fewer programs, for a quick look")
    options = parser.parse_args()
    warm()
    settings = SandboxSettings()
    with Interpreter(settings) as interpreter:
        figures, queue = asyncio.run(measure(interpreter.address, options.rounds, options.scale))
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    about = (f"load averages {loads}", f"kernel {platform.release()}", f"Python {platform.python_version()}")
    lines = ["", *markdown_table(("bar", "measured", "wanted", "held"), bars(figures, queue)), ""]
    lines += markdown_table(("figure", "median"), [(name, f"{value:.2f}") for name, value in figures.items()])
    by_clients = [(f"{clients}", f"{p50:.1f}", f"{p50 / clients:.2f}") for clients, p50 in queue.items()]
    lines += ["", *markdown_table(("clients", "p50 ms", "ms a client"), by_clients), "", f"`{settings}`"]
    write_page("sandbox", "Sandbox", about, lines, options.dry)


if __name__ == "__main__":
    main()
