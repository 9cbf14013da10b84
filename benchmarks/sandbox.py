"""Measures the sandbox against its bars, interleaved with the references: python -m benchmarks.sandbox

Every round runs each system on each program in turn, so that noise of the machine falls on all alike; figures
are medians over rounds. Writes benchmarks/results/sandbox.json and sandbox.md. About 5 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import sandbox_floor as floor
from benchmarks.sandbox_server import sandbox_server
from tasks.shared.sandbox import SandboxClient, SandboxSettings, Status

PROGRAMS = {
    "a": "print(1+1)",
    "b": "import sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x**2 - 3*x + 2, x))",
    "c": (
        "import time\nend = time.thread_time() + 0.02\nn = 0\nwhile time.thread_time() < end:\n    n += 1\n"
        "print(n > 0)"
    ),
}
RESULTS = Path(__file__).parent / "results"
CONCURRENCY = 16


class Bench:
    """Holds the connection to a server and collects samples by name."""

    def __init__(self, client: SandboxClient, scale: float) -> None:
        self.client, self.scale = client, scale
        self.samples: dict[str, list[float]] = {}

    def note(self, name: str, values: list[float]) -> None:
        """Keep the median of a burst as one sample."""
        self.samples.setdefault(name, []).append(statistics.median(values))

    async def run(self, code: str, session: str | None = None) -> float:
        """Milliseconds of one round trip; the program must end well."""
        started = time.perf_counter()
        result = await self.client.run(code, session)
        assert result.status is Status.OK, result
        return 1e3 * (time.perf_counter() - started)

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
            self.note(
                f"floor {name} ms", [floor.timed(lambda c=code: floor.fork_once(c)) for _ in range(num)]
            )
            self.note(f"sandbox {name} ms", [await self.run(code) for _ in range(num)])
            self.note(f"session {name} ms", [await self.run(code, session) for _ in range(num)])
            self.note(
                f"python -c {name} ms",
                [floor.timed(lambda c=code: floor.subprocess_once(c)) for _ in range(3)],
            )
            if shutil.which("bwrap"):
                calls = [
                    floor.timed(lambda c=code: floor.subprocess_once(c, floor.bwrap())) for _ in range(3)
                ]
                self.note(f"bwrap {name} ms", calls)
        await self.client.close_session(session)

    async def throughput_round(self) -> None:
        """Floor, sandbox and `python -c` at 16 clients."""
        for name, number in (("a", 400), ("b", 150)):
            number = max(32, int(number * self.scale))
            self.note(f"floor {name} /s", [floor.fork_many(PROGRAMS[name], number, CONCURRENCY)])
            per_second, _ = await self.burst(PROGRAMS[name], number, CONCURRENCY)
            self.note(f"sandbox {name} /s", [per_second])
        self.note("python -c b /s", [subprocess_throughput(PROGRAMS["b"], 16)])


def subprocess_throughput(code: str, num_programs: int) -> float:
    """`python -c` programs per second, 16 at a time."""
    started = time.perf_counter()
    waiting = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(num_programs)
    ]
    for process in waiting:
        process.communicate()
    return num_programs / (time.perf_counter() - started)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def measure(address: str, rounds: int, scale: float, num_tail: int) -> dict[str, object]:
    """All figures of one run against the server at `address`."""
    bench = Bench(await SandboxClient.connect(address), scale)
    await bench.burst(PROGRAMS["a"], 64, 8)
    for number in range(rounds):
        await bench.latency_round()
        await bench.throughput_round()
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    figures: dict[str, object] = {name: statistics.median(values) for name, values in bench.samples.items()}
    _, tail = await bench.burst(PROGRAMS["a"], num_tail, CONCURRENCY)
    figures["tail p50 ms"], figures["tail p99 ms"] = percentile(tail, 0.5), percentile(tail, 0.99)
    queue = {}
    for concurrency in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        _, latencies = await bench.burst(PROGRAMS["a"], max(200, 3 * concurrency), concurrency)
        queue[concurrency] = percentile(latencies, 0.5)
    figures["queue p50 ms by clients"] = queue
    figures["health"] = await bench.client.health()
    await bench.client.close()
    return figures


def bars(figures: dict[str, object]) -> list[tuple[str, float, str, bool]]:
    """(what, measured, bar, held) for each bar of the project."""

    def value(name: str) -> float:
        number = figures[name]
        assert isinstance(number, float)
        return number

    queue = figures["queue p50 ms by clients"]
    assert isinstance(queue, dict)
    at_most = [
        ("(a) latency over the floor", value("sandbox a ms") / value("floor a ms"), 1.6),
        ("(b) latency over the warm floor", value("sandbox b ms") / value("floor b ms"), 1.2),
        ("a block of a living session over (a)", value("session a ms") / value("sandbox a ms"), 0.7),
        ("(a) p99 over p50, at 16 clients", value("tail p99 ms") / value("tail p50 ms"), 5.0),
        ("cost of a client in queue, 512 over 64 clients", (queue[512] / 512) / (queue[64] / 64), 1.25),
    ]
    at_least = [
        ("(a) throughput over the floor's", value("sandbox a /s") / value("floor a /s"), 0.75),
        ("(b) throughput over python -c", value("sandbox b /s") / value("python -c b /s"), 33.0),
    ]
    rows = [(what, ratio, f"at most {bar:g}", ratio <= bar) for what, ratio, bar in at_most]
    return rows + [(what, ratio, f"at least {bar:g}", ratio >= bar) for what, ratio, bar in at_least]


def processor_name() -> str:
    """The processor as the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def write(figures: dict[str, object], settings: SandboxSettings) -> None:
    """Store figures, hardware, date and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    about = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "processors": f"{os.cpu_count()} x {processor_name()}",
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "settings": asdict(settings),
    }
    rows = bars(figures)
    verdicts = [
        {"what": what, "measured": round(ratio, 3), "bar": bar, "held": held}
        for what, ratio, bar, held in rows
    ]
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"about": about, "bars": verdicts, "figures": figures}, indent=1)
    (RESULTS / "sandbox.json").write_text(text + "\n")
    lines = ["# Sandbox", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += ["| bar | measured | wanted | held |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {ratio:.2f} | {bar} | {'yes' if held else 'no'} |" for what, ratio, bar, held in rows
    ]
    lines += ["", "| figure | median |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in figures.items() if isinstance(value, float)]
    queue = figures["queue p50 ms by clients"]
    assert isinstance(queue, dict)
    lines += ["", "| clients | p50 ms | ms a client |", "|---|---|---|"]
    lines += [f"| {clients} | {p50:.1f} | {p50 / clients:.2f} |" for clients, p50 in queue.items()]
    (RESULTS / "sandbox.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: fewer programs, for a quick look")
    parser.add_argument("--tail", type=int, default=10_000, help="calls over which p99 and p50 are taken")
    parser.add_argument("--dry", action="store_true", help="print the bars, write nothing")
    arguments = parser.parse_args()
    floor.warm()
    settings = SandboxSettings()
    with sandbox_server(settings) as (path, _):
        figures = asyncio.run(measure(path, arguments.rounds, arguments.scale, arguments.tail))
    if arguments.dry:
        print(json.dumps(figures, indent=1))
        for row in bars(figures):
            print(row)
    else:
        write(figures, settings)


if __name__ == "__main__":
    main()
