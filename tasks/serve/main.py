"""`ask` and `serve` in the environment that the recipe's engine needs. `flows/commands/serving.py` starts it.

python -m tasks.serve.main ask | serve request.json
"""

import shutil
import sys
from pathlib import Path

from tasks.serve.request import ServeRequest


def main(arguments: list[str]) -> int:
    """Run the command line. Returns the exit code."""
    if len(arguments) != 2 or arguments[0] not in ("ask", "serve"):
        sys.stderr.write("usage: python -m tasks.serve.main ask | serve request.json\n")
        return 2
    text = Path(arguments[1]).read_text(encoding="utf-8")
    try:
        return run_command(arguments[0], ServeRequest.model_validate_json(text))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {str(error).splitlines()[0]}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def run_command(command: str, request: ServeRequest) -> int:
    """Run `ask` or `serve`. Returns the exit code. Raises ValueError or OSError for a user's mistake."""
    if command == "ask":
        from tasks.serve.ask import ask

        code = ask(request)
    else:
        from tasks.serve.serve import serve

        code = serve(request)
    shutil.rmtree(request.scratch, ignore_errors=True)  # after an error the logs stay
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
