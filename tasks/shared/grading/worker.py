r"""The comparing process: JSON lines in, JSON lines out, under its own limits.

    python tasks/shared/grading/worker.py CPU_SECONDS MEMORY_MB

A comparison that uses more processor time than it may is ended by the kernel (SIGXCPU) together with this process;
`equivalence.py` starts the next one. Signals of Math-Verify are switched off: they cannot interrupt long integer
arithmetic.
"""

import json
import logging
import resource
import sys

import sympy
from math_verify import LatexExtractionConfig, parse, verify

BOXED = (LatexExtractionConfig(boxed_match_priority=0),)


def _expressions(content: str) -> list[sympy.Basic | str]:
    """The parsed expression and, behind it, the text: so two equal texts are equal even where parsing fails."""
    parsed: list[sympy.Basic | str] = parse(
        f"\\boxed{{{content}}}", extraction_config=BOXED, extraction_mode="first_match", parsing_timeout=None
    )
    return parsed


def compare(predicted: str, reference: str) -> str:
    """The verdict as text. Math-Verify is told which side is the reference: it is not symmetric."""
    expected, found = _expressions(reference), _expressions(predicted)
    if not expected or not found:
        return "different"
    equal = verify(expected, found, strict=True, timeout_seconds=None, raise_on_error=True)
    return "equal" if equal else "different"


def _limit_next_comparison(cpu_s: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + cpu_s, hard))


def main(cpu_s: int, memory_mb: int) -> None:
    """Answer until the input closes."""
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compare("1/2", "0.5")  # parser tables and simplification are loaded here, outside the first comparison
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        _limit_next_comparison(cpu_s)
        try:
            verdict = compare(request["predicted"], request["reference"])
        except Exception:  # noqa: BLE001 - untrusted text meets a computer algebra system: any error may come out
            verdict = "undecided"
        sys.stdout.write(json.dumps({"verdict": verdict}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
