"""Measures the channels between programs that the sandbox cannot close: python -m benchmarks.sandbox_channels

Two programs that share a clock pass random bits, one in each time slot. The capacity is (1 - H(share of wrong bits)) /
slot; the best over several lengths of a slot is printed: bits a second on this machine, with its other load. About two
minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from dataclasses import dataclass

from scipy.stats import entropy

from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings, SandboxUnavailable

NUM_BITS = 200
WARM_UP_S = 0.5
SLOTS_S = (0.3, 0.1, 0.03, 0.01, 0.003)


@dataclass(frozen=True, slots=True)
class Channel:
    """How a bit is sent and received: bodies of functions of `until`, the end of the slot, at which they return."""

    name: str
    isolation: str
    send: str  # run for a 1; for a 0 the program sleeps
    receive: str  # returns a number that is larger for a 1
    prepare: str = ""


_WAIT = "while time.time() < until: time.sleep(0.0005)"
CHANNELS = [
    Channel(
        "load of the processors", "auto",
        "while time.time() < until: pass",
        "n = 0\nwhile time.time() < until: n += 1\nreturn -n",
    ),
    Channel(
        "numbers of threads", "namespaces",
        "while time.time() < until:\n    t = threading.Thread(target=int)\n    t.start()\n    t.join()",
        f"{_WAIT}\nt = threading.Thread(target=int)\nt.start()\nt.join()\nseen = t.native_id - last[0]\n"
        "last[0] = t.native_id\nreturn seen",
        "import threading\nlast = [0]",
    ),
    Channel(
        "numbers of pipes", "auto",
        "while time.time() < until:\n    for fd in os.pipe(): os.close(fd)",
        "jump = 0\nwhile time.time() < until:\n    r, w = os.pipe()\n    number = os.fstat(r).st_ino\n    os.close(r)\n"
        "    os.close(w)\n    jump += max(number - last[0] - 1, 0)\n    last[0] = number\nreturn jump",
        "last = [0]",
    ),
    Channel(
        "number of open files, in /proc", "landlock",
        f"kept = [os.dup(0) for _ in range(30)]\n{_WAIT}\nfor fd in kept: os.close(fd)",
        "most = 0\nwhile time.time() < until - 0.0005:\n    most = max(most, sum(size(pid) for pid in near))\n"
        "    time.sleep(0.0003)\nreturn most",
        "near = [pid for pid in range(os.getpid() - 8, os.getpid() + 8) if pid != os.getpid()]\ndef size(pid):\n"
        "    try: return os.stat(f'/proc/{pid}/fd').st_size\n    except OSError: return 0",
    ),
]  # fmt: skip

PROGRAM = """
import os, time
{prepare}
def slot(until):
{body}
start, length = {start}, {length}
while time.time() < start: time.sleep(0.0005)
received = []
for number, bit in enumerate({bits}):
    until = start + (number + 1) * length
    if bit:
        received.append(slot(until))
    else:
        time.sleep(max(until - time.time(), 0))
print(received)
"""


def program(body: str, channel: Channel, start: float, length: float, bits: list[int]) -> str:
    """The source of one side."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return PROGRAM.format(prepare=channel.prepare, body=indented, start=start, length=length, bits=bits)


def capacity(sent: list[int], received: list[float], length_s: float) -> float:
    """Bits a second. The threshold is the median of the received values, as half of the bits are 1."""
    middle = statistics.median_high(received)
    wrong = sum((value >= middle) != bool(bit) for bit, value in zip(sent, received, strict=True)) / len(sent)
    wrong = min(wrong, 0.5)
    return (1 - float(entropy((wrong, 1 - wrong), base=2))) / length_s


def measure(channel: Channel, num_bits: int, rng: random.Random) -> dict[str, float]:
    """The best over the lengths of a slot."""
    best = {"bits_a_second": 0.0, "slot_s": 0.0}
    settings = SandboxSettings(workers=1, slots=2, isolation=channel.isolation, preload=("math",))
    with Interpreter(settings) as interpreter:
        for length in SLOTS_S:
            bits = [0, 1] * (num_bits // 2)
            rng.shuffle(bits)
            limits = Limits(wall_s=60.0 + 2 * length * num_bits, cpu_s=600.0, output_chars=100_000)
            start = time.time() + WARM_UP_S
            sender = program(channel.send, channel, start, length, bits)
            receiver = program(channel.receive, channel, start, length, [1] * num_bits)
            running = [interpreter.submit(code, limits=limits) for code in (sender, receiver)]
            results = [future.result() for future in running]
            assert all(not result.error for result in results), results
            rate = capacity(bits, json.loads(results[1].stdout), length)
            if rate > best["bits_a_second"]:
                best = {"bits_a_second": round(rate, 1), "slot_s": length}
    return best


INODES = """
import os, time
end, n = time.time() + 4, 0
while time.time() < end:
    os.close(os.open('.', os.O_TMPFILE | os.O_WRONLY))
    n += 1
print(n)
"""


def inodes_a_program(directory: str) -> float:
    """Bits that one program can leave to the next in the inode counter of their scratch directory."""
    settings = SandboxSettings(
        workers=1, slots=1, isolation="landlock", scratch_dirs=(directory,), preload=("math",)
    )
    with Interpreter(settings) as interpreter:
        return math.log2(int(interpreter.run(INODES).stdout))


def main() -> None:
    """Measure every channel and print its rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=NUM_BITS)
    parser.add_argument("--scratch", default="", help="a tmpfs, to measure what its inode counter carries")
    options = parser.parse_args()
    rng = random.Random(0)
    for channel in CHANNELS:
        try:
            rate = measure(channel, options.bits, rng)
            print(f"{channel.name} ({channel.isolation}): {rate}", flush=True)
        except SandboxUnavailable as error:
            print(f"{channel.name}: not measured, {error}")
    if options.scratch:
        bits = inodes_a_program(options.scratch)
        print(f"inode counter of a scratch directory: {bits:.0f} bits a program")


if __name__ == "__main__":
    main()
