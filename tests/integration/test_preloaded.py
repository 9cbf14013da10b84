"""Forked processes read, write, exit and are killed as started ones."""

import os
import signal
import subprocess
from pathlib import Path

import psutil

from tests.preloaded.client import Fork
from tests.preloaded.environment import interpreter, server
from tests.waiting import until


def test_a_forked_module_reads_writes_and_exits_as_a_process(tmp_path: Path) -> None:
    python = interpreter(("json.tool",))
    command = [python, "-m", "json.tool", "--compact"]
    good = subprocess.run([*command, "-", "out.json"], input='{"a": 1}', cwd=tmp_path, text=True)
    assert good.returncode == 0 and (tmp_path / "out.json").read_text() == '{"a":1}\n'
    bad = subprocess.run(command, input='{"a"', capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (1, "") and "Expecting ':'" in bad.stderr


def test_a_signal_reaches_the_fork_and_its_exit_code(tmp_path: Path) -> None:
    python = interpreter(("http.server",))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([python, "-u", "-m", "http.server", "0"], stdout=log, stderr=log)
    until(lambda: "Serving HTTP" in (tmp_path / "log").read_text())
    process.terminate()
    assert process.wait(60) == -signal.SIGTERM


def test_a_fork_dies_with_its_client(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    fork = Fork(str(server()), ["http.server", "0"], {nothing: 0, log: 1}, os.environ)
    until(lambda: "Serving HTTP" in (tmp_path / "log").read_text())
    process = psutil.Process(fork.pid)
    fork.close()
    process.wait(60)
