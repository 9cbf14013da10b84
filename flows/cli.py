"""The command `tirflow`: what is in the store, what a recipe would do, what it takes.

    tirflow artifacts ls | show | lineage | compare | verify | gc | pin | unpin
    tirflow plan RECIPE --run NAME | --gpus N --memory-gib M

Each prints a table for people, or JSON for programs with --json.
"""

import importlib
import sys

COMMANDS = {
    "artifacts": "flows.artifacts",
    "plan": "flows.plan",
}  # imported when asked for: Prefect takes seconds


def main() -> int:
    """The command; its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(f"{str(__doc__).strip()}\n")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        sys.stderr.write(f"usage: tirflow {' | '.join(COMMANDS)} ... (--help)\n")
        return 2
    command = importlib.import_module(COMMANDS[arguments[0]])
    return int(command.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
