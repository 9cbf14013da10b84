"""Uids of servers: no two servers of a machine share one."""

from __future__ import annotations

import itertools
import subprocess
import sys
from contextlib import ExitStack

from tasks.shared.sandbox.compartments import COMPARTMENTS_A_WORKER, FIRST_UID

RESERVE = """
import sys
from tasks.shared.sandbox.compartments import reserve_uids
print(reserve_uids(int(sys.argv[1])), flush=True)
input()
"""


def test_servers_at_once_have_uids_of_their_own() -> None:
    workers = (1, 40, 16, 17)
    ranges: list[range] = []
    with ExitStack() as stack:
        for number in workers:
            command = [sys.executable, "-c", RESERVE, str(number)]
            server = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert server.stdout is not None
            first = int(server.stdout.readline())
            ranges.append(range(first, first + number * COMPARTMENTS_A_WORKER))
    ranges.sort(key=lambda one: one.start)
    assert ranges[0].start >= FIRST_UID
    assert ranges[-1].stop < 2**32 - 1
    assert all(one.stop <= other.start for one, other in itertools.pairwise(ranges))
