r"""The process that compares expressions: JSON lines in, JSON lines out, under its own limits.

    python -m tasks.shared.grading.worker CPU_SECONDS MEMORY_MB

The kernel ends a comparison that exceeds its processor time, together with this process (SIGXCPU); `equivalence.py`
starts the next one. A signal handler would not help: it cannot interrupt long integer arithmetic.
"""

import json
import logging
import resource
import sys

from tasks.shared.grading.equality import equal


def _limit_next_comparison(cpu_s: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + cpu_s, hard))


def main(cpu_s: int, memory_mb: int) -> None:
    """Answer until the input closes."""
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # loads parser tables and solvers, so that the first comparison is not charged for them
    equal("\\frac{x}{2}", "x/2")
    equal("(-2, 2)", "|x| < 2")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        _limit_next_comparison(cpu_s)
        try:
            verdict = "equal" if equal(request["reference"], request["predicted"]) else "different"
        except Exception:  # noqa: BLE001 - untrusted text meets a computer algebra system: any error may come out
            verdict = "undecided"
        sys.stdout.write(json.dumps({"verdict": verdict}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
