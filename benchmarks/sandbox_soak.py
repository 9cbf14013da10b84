"""Thousands of programs at concurrency 64, half of them hostile, with workers killed: python -m benchmarks.sandbox_soak

Every program must be answered, every honest one rightly. Nothing may be left: processes, descriptors, mounts and memory
are counted before and after. Writes benchmarks/results/sandbox_soak.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.record import RESULTS, environment_versions
from tasks.shared.sandbox import Interpreter, Limits, SandboxClient, SandboxSettings, Status

CONCURRENCY = 64
KILL_EVERY = 500
SETTINGS = SandboxSettings(limits=Limits(wall_s=2.0, cpu_s=2.0, memory_mb=256), workers=2, slots=3, retries=5)
HOSTILE = {
    "fork": "import os\nos.fork()",
    "socket": "import socket\nsocket.socket()",
    "read": "open('/etc/passwd').read()",
    "kill": "import os\nos.kill(-1, 9)",
    "exit": "import os\nos._exit(7)",
    "segfault": "import ctypes\nctypes.string_at(0)",
    "memory": "x = bytearray(1 << 33)",
    "files": "for n in range(200): open(f'f{n}', 'w').write('x' * 1000)",
    "deep": "import os\nfor n in range(100):\n    os.mkdir('d')\n    os.chdir('d')",
    "output": "for n in range(300): print('y' * 1000)",
    "flood": "while True: print('y' * 500000)",
    "threads": (
        "import threading, time\nfor _ in range(99):\n"
        "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    ),
    "descriptors": "import os\nx = [os.dup(0) for _ in range(999)]",
    "channel": "import os\nos.write(3, b'x' * 500)\nos.close(3)",
    "raise": "raise ValueError('z' * 100000)",
    "syntax": "def f(:",
    "leak": "import sympy, builtins, math\nbuiltins.print = None\nmath.sqrt = None\nsympy.solve = None",
}  # fmt: skip
MAY_END_WELL = ("files", "deep", "channel", "leak")
# rare, since each takes the whole time limit
SLOW = {"sleep": "import time\ntime.sleep(100)", "loop": "while True: pass"}


@dataclass(frozen=True, slots=True)
class Held:
    """What the server and its descendants hold at one moment."""

    processes: int
    server_descriptors: int
    worker_descriptors: int
    mounts: int
    server_mb: float
    others_mb: float  # private memory of zygote and workers together


def descendants(pid: int, depth: int = 99) -> list[int]:
    """All processes below `pid`, down to `depth` generations."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, generation = [], [pid]
    while generation and depth:
        generation = [child for parent in generation for child in children.get(parent, [])]
        found += generation
        depth -= 1
    return found


def _private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def _num_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def held_by(server: int) -> Held:
    """Count what the server and everything below it hold. Takes root."""
    below = descendants(server)
    descriptors = sum(_num_descriptors(pid) for pid in below)
    # The zygote sees the host's mounts, which others change: the workers' own alone count.
    own = os.readlink("/proc/self/ns/mnt")
    apart = [pid for pid in below if os.readlink(f"/proc/{pid}/ns/mnt") != own]
    mounts = sum(len(Path(f"/proc/{pid}/mounts").read_text().splitlines()) for pid in apart)
    others_mb = sum(_private_mb(pid) for pid in below)
    return Held(len(below), _num_descriptors(server), descriptors, mounts, _private_mb(server), others_mb)


def honest(number: int) -> tuple[str, str]:
    """A program and the output it must have."""
    kind = number % 4
    if kind == 0:
        return f"print({number} ** 2)", f"{number**2}\n"
    if kind == 1:
        code = f"import sympy\nx = sympy.symbols('x')\nprint(sympy.solve((x - {number}) * (x + 1), x))"
        return code, f"[-1, {number}]\n"
    if kind == 2:
        code = f"import numpy as np\nprint(int(np.arange({number % 1000}).sum()))"
        return code, f"{sum(range(number % 1000))}\n"
    code = f"with open('n.txt', 'w') as f:\n    f.write('{number}')\nprint(open('n.txt').read())"
    return code, f"{number}\n"


async def soak(
    client: SandboxClient, server: int, num_programs: int, seed: int, kill: bool = True
) -> dict[str, object]:
    """Run the mixture; returns counts. Raises AssertionError at the first wrong answer."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    attempts: Counter[int] = Counter()
    numbers = iter(range(num_programs))
    killed = 0

    async def one_client() -> None:
        nonlocal killed
        for number in numbers:
            if kill and number % KILL_EVERY == KILL_EVERY - 1:
                supervisors = descendants(server, depth=3)  # zygote, the workers' companions, workers
                os.kill(rng.choice(supervisors), signal.SIGKILL)
                killed += 1
                print(f"{number + 1} programs", file=sys.stderr, flush=True)
            if number % 2:
                code, output = honest(number)
                result = await client.run(code)
                assert (result.status, result.stdout) == (Status.OK, output), (code, result)
            else:
                table = SLOW if rng.random() < 0.01 else HOSTILE
                name = rng.choice(sorted(table))
                result = await client.run(table[name])
                assert result.status is not Status.SANDBOX_FAILURE, (name, result)
                assert result.status is not Status.OK or name in MAY_END_WELL, (name, result)
            counts[result.status.value] += 1
            attempts[result.attempts] += 1

    await asyncio.gather(*(one_client() for _ in range(CONCURRENCY)))
    return {"statuses": dict(counts), "runs_a_program": dict(sorted(attempts.items())), "killed": killed}


async def settle(client: SandboxClient, server: int) -> Held:
    """Wait until nothing runs and all ready children are back, then count."""
    num_children = SETTINGS.workers * SETTINGS.slots
    for _ in range(100):
        await asyncio.sleep(0.1)
        health = await client.health()
        if health["running"] == 0 and health["children"] == num_children:
            break
    await asyncio.sleep(0.5)
    return held_by(server)


async def measure(address: str, server: int, num_programs: int, seed: int) -> dict[str, object]:
    """Warm up, count, soak, count again."""
    client = await SandboxClient.connect(address)
    await soak(client, server, 200, seed, kill=False)
    before = await settle(client, server)
    started = time.monotonic()
    report = await soak(client, server, num_programs, seed + 1)
    seconds = time.monotonic() - started
    after = await settle(client, server)
    health = await client.health()
    await client.close()
    return {
        **report,
        "seconds": round(seconds, 1),
        "programs_per_s": round(num_programs / seconds, 1),
        "held": {"before": asdict(before), "after": asdict(after)},
        "health": health,
    }


def run(num_programs: int, seed: int) -> dict[str, object]:
    """Start a server, soak it, end it; raises AssertionError if anything is left."""
    with Interpreter(SETTINGS) as interpreter:
        report = asyncio.run(measure(interpreter.address, interpreter.server_pid, num_programs, seed))
        below = descendants(interpreter.server_pid)
    left = [pid for pid in below if os.path.exists(f"/proc/{pid}")]
    assert not left, f"processes left after the server ended: {left}"
    return report


def main() -> None:
    """Soak and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    about = environment_versions() | {"programs": options.programs, "concurrency": CONCURRENCY}
    report = run(options.programs, options.seed)
    text = json.dumps({"about": about, **report}, indent=1)
    (RESULTS / "sandbox_soak.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
