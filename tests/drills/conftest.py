"""Drills do real harm and check an invariant by machine; each outcome is a row of docs/reliability_history.md.

make drills                                      # all of them, then the table
python -m pytest tests/drills                    # the short ones, as in `make test`
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEEN = "seen"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="random moments at which drills kill something")
    parser.addoption(
        "--outage", type=float, default=20.0, help="seconds for which drills take a service away"
    )
    parser.addoption("--steps", type=int, default=300, help="RL steps of the long run, in rounds of ten")
    parser.addoption("--drill-results", type=Path, help="a JSONL file that gets a line for each drill")


@pytest.fixture
def saw(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Note what a drill measured for its row of the table: counts and seconds."""
    return lambda text: record_property(SEEN, text)


@pytest.fixture(scope="session")
def kills(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--kills"))


@pytest.fixture(scope="session")
def outage_s(pytestconfig: pytest.Config) -> float:
    return float(pytestconfig.getoption("--outage"))


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--drill-results")
    if path and not hasattr(config, "workerinput"):  # the process that gets every test's outcome
        config.pluginmanager.register(Results(path))


class Results:
    """Appends a line for each finished drill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        git = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        )
        self._commit = git.stdout.strip()
        self._promises: dict[str, str] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Remember what a drill shows: the first line of its docstring."""
        documented = (getattr(item, "function", None) or item).__doc__ or item.name
        self._promises[item.nodeid] = documented.strip().splitlines()[0]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Iterator[None]:
        """Note the outcome of a call, or of a setup that failed."""
        yield
        if not report.nodeid.startswith("tests/drills/") or not (report.when == "call" or report.failed):
            return
        line = {
            "drill": report.nodeid,
            "promise": self._promises.get(report.nodeid, ""),
            "outcome": report.outcome,
            "seen": "; ".join(str(value) for name, value in report.user_properties if name == SEEN)
            or _reason(report),
            "seconds": round(report.duration, 1),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": self._commit,
        }
        with self._path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def _reason(report: pytest.TestReport) -> str:
    """The first line of the error, "" for a drill that passed."""
    lines = [line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return lines[0][:300] if report.failed and lines else ""
