"""Throughput of verification beside that of the bare sandbox client on the same programs.

    python -m benchmarks.verification

One server. In every round the blocks of the labelled set's good traces run through the asynchronous client, and the
traces run through `verify` on as many threads: parsing, execution, comparison and grading. Blocks a second, medians
over rounds. Writes benchmarks/results/verification.md; about 2 minutes. Exit code 1 below the bar.
"""

import asyncio
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.record import benchmark_options, load_average, markdown_table, write_page
from benchmarks.rounds import ratios, timed, turns
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


async def run_bare(address: str, codes: Sequence[str], concurrency: int) -> None:
    """Run the blocks through the client."""
    client = await SandboxClient.connect(address)
    waiting = iter(codes)

    async def one_client() -> None:
        for code in waiting:
            await client.run(code)

    await asyncio.gather(*(one_client() for _ in range(concurrency)))
    await client.close()


def run_verified(interpreter: Interpreter, traces: Sequence[WrittenTrace], threads: int) -> None:
    """Run the traces through verification; every one must be accepted."""
    with ThreadPoolExecutor(threads) as pool:
        verdicts = list(pool.map(lambda written: verify(written, RULES, interpreter), traces))
    assert all(verdict.accepted for verdict in verdicts)


def measure(rounds: int, num_good: int, concurrency: int) -> dict[str, list[float]]:
    """Blocks a second of each round: "bare" and "verified"."""
    traces = traces_with_code(num_good)
    codes = [
        segment.code for one in traces for segment in DIALECT.split(one.trace) if segment.code is not None
    ]
    print(f"{len(traces)} traces, {len(codes)} blocks", file=sys.stderr)
    rates: dict[str, list[float]] = {"bare": [], "verified": []}
    with Interpreter(SandboxSettings()) as interpreter:
        run_verified(interpreter, traces[::10], concurrency)
        ways = {
            "bare": lambda: asyncio.run(run_bare(interpreter.address, codes, concurrency)),
            "verified": lambda: run_verified(interpreter, traces, concurrency),
        }
        for _, way in turns(list(ways), rounds):
            rates[way].append(len(codes) / timed(ways[way])[0])
    return rates


def main() -> int:
    """Measure, write, and fail below the bar."""
    parser = benchmark_options(__doc__, rounds=9)
    parser.add_argument("--traces", type=int, default=30, help="of each of the nine kinds")
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    rates = measure(options.rounds, options.traces, options.concurrency)
    ratio = statistics.median(ratios(rates["verified"], rates["bare"]))
    rows = [
        ("bare client", f"{statistics.median(rates['bare']):.0f}"),
        ("verification", f"{statistics.median(rates['verified']):.0f}"),
        ("verification over bare, median of rounds", f"{ratio:.2f}"),
        ("bar", f"{BAR}"),
    ]
    about = (f"{options.rounds} rounds", f"{options.concurrency} in flight", load_average())
    table = markdown_table(("", "blocks a second"), rows)
    write_page("verification", "Verification", about, ["", *table], options.dry)
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
