"""Throughput of verification beside that of the bare sandbox client on the same programs.

    python -m benchmarks.verification

One server; in every round the blocks of the labelled set's good traces run through the asynchronous client, then the
traces through `verify` on as many threads, which is parsing, execution, comparison and grading. Blocks a second,
medians over rounds. Writes benchmarks/results/verification.md; exit code 1 below the bar. About 2 minutes.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.record import environment_versions, headline, markdown_table, write_page
from benchmarks.sandbox_server import sandbox_server
from tasks.shared.sandbox import Interpreter, SandboxClient, SandboxSettings
from tasks.synthesize.traces import WrittenTrace
from tasks.synthesize.verify import Rules, verify
from tests.unit.synthesize.labelled import DIALECT, MAX_CALLS, labelled_set

BAR = 0.8
RULES = Rules(DIALECT, MAX_CALLS, "last_line", announce_remaining_calls=False, stateful=False)


def traces_with_code(num_good: int) -> list[WrittenTrace]:
    """The good traces that have a block."""
    labelled = labelled_set(num_good=num_good, num_endless=0)
    return [one.written for one in labelled if not one.faults and DIALECT.stop in one.written.trace]


async def bare(address: str, codes: Sequence[str], concurrency: int) -> float:
    """Blocks a second through the client."""
    client = await SandboxClient.connect(address)
    waiting = iter(codes)

    async def one_client() -> None:
        for code in waiting:
            await client.run(code)

    started = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(concurrency)))
    per_second = len(codes) / (time.perf_counter() - started)
    await client.close()
    return per_second


def verified(
    interpreter: Interpreter, traces: Sequence[WrittenTrace], num_blocks: int, threads: int
) -> float:
    """Blocks a second through verification; every trace must be accepted."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        verdicts = list(pool.map(lambda written: verify(written, RULES, interpreter), traces))
    per_second = num_blocks / (time.perf_counter() - started)
    assert all(verdict.accepted for verdict in verdicts)
    return per_second


def measure(address: str, rounds: int, num_good: int, concurrency: int) -> list[tuple[float, float]]:
    """(bare, verified) blocks a second of each round, the two in turn first."""
    traces = traces_with_code(num_good)
    codes = [
        segment.code for one in traces for segment in DIALECT.split(one.trace) if segment.code is not None
    ]
    print(f"{len(traces)} traces, {len(codes)} blocks", file=sys.stderr)
    laps = []
    with Interpreter(SandboxSettings(), address=address) as interpreter:
        verified(interpreter, traces[::10], len(codes) // 10, concurrency)
        for number in range(rounds):
            pair = {}
            for kind in ("bare", "verified") if number % 2 else ("verified", "bare"):
                if kind == "bare":
                    pair[kind] = asyncio.run(bare(address, codes, concurrency))
                else:
                    pair[kind] = verified(interpreter, traces, len(codes), concurrency)
            laps.append((pair["bare"], pair["verified"]))
    return laps


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--traces", type=int, default=30, help="of each of the nine kinds")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--dry", action="store_true", help="print the medians, write nothing")
    arguments = parser.parse_args()
    with sandbox_server(SandboxSettings()) as (path, _):
        laps = measure(path, arguments.rounds, arguments.traces, arguments.concurrency)
    ratio = statistics.median(through / alone for alone, through in laps)
    medians = [statistics.median(column) for column in zip(*laps, strict=True)]
    rows = [
        ("bare client", f"{medians[0]:.0f}"),
        ("verification", f"{medians[1]:.0f}"),
        ("verification over bare, median of rounds", f"{ratio:.2f}"),
        ("bar", f"{BAR}"),
    ]
    settings = (f"{arguments.rounds} rounds", f"{arguments.concurrency} in flight")
    about = headline(environment_versions(), *settings, f"load average {os.getloadavg()[0]:.0f}")
    page = ["# Verification", "", about, "", *markdown_table(("", "blocks a second"), rows)]
    if arguments.dry:
        print("\n".join(page))
    else:
        write_page("verification", page)
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
