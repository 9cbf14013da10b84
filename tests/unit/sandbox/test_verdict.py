"""Statuses from observations: exit codes, signals, processor time, size of the output."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.shared.sandbox import ExecutionResult, Limits, Status, confinement
from tasks.shared.sandbox.confinement import Isolation, probe
from tasks.shared.sandbox.executions import Execution, Session
from tasks.shared.sandbox.links import Exit
from tasks.shared.sandbox.records import SandboxUnavailable
from tasks.shared.sandbox.verdict import judge

LIMITS = Limits(cpu_s=2.0, output_chars=70, disk_mb=1)


@pytest.fixture
def files() -> Iterator[tuple[int, int]]:
    pair = os.memfd_create("out"), os.memfd_create("err")
    yield pair
    for descriptor in pair:
        os.close(descriptor)


def result_of(
    files: tuple[int, int],
    code: int,
    report: str = "",
    timed_out: bool = False,
    cpu_s: float = 0.0,
    peak_bytes: int = 0,
    session_alive: bool | None = None,
) -> ExecutionResult:
    execution = Execution(b"", LIMITS, future=None)  # type: ignore[arg-type]
    execution.session = None if session_alive is None else Session()
    execution.stdout_fd, execution.stderr_fd = files
    execution.started, execution.timed_out = time.monotonic(), timed_out
    exit = Exit(code << 8 if code >= 0 else -code, cpu_s, peak_bytes)
    return judge(execution, exit, report, "namespaces", session_alive)


@pytest.mark.parametrize(
    ("code", "more", "status", "line"),
    [
        (0, {}, Status.OK, ""),
        (1, {"report": "Traceback\nKeyError: 1\n"}, Status.ERROR, "KeyError: 1"),
        (9, {}, Status.ERROR, "RuntimeError: the program ended without a traceback (exit code 9)"),
        (
            -signal.SIGSEGV,
            {},
            Status.ERROR,
            "RecursionError: the program's recursion is too deep for its stack (SIGSEGV)",
        ),
        (2, {"report": "MemoryError\n"}, Status.OUT_OF_MEMORY, "MemoryError"),
        (-signal.SIGKILL, {}, Status.OUT_OF_MEMORY, "MemoryError: the program needed more than 512 MB"),
        (
            -signal.SIGKILL,
            {"timed_out": True},
            Status.TIMEOUT,
            "TimeoutError: the program ran longer than 5 s",
        ),
        (-signal.SIGKILL, {"cpu_s": 2.01}, Status.TIMEOUT, "TimeoutError: the program ran longer than 5 s"),
        (-signal.SIGXCPU, {}, Status.TIMEOUT, "TimeoutError: the program ran longer than 5 s"),
        (
            -signal.SIGSYS,
            {},
            Status.FORBIDDEN,
            "PermissionError: the program made a system call that the sandbox refuses",
        ),
        (3, {"report": "PermissionError: no\n"}, Status.FORBIDDEN, "PermissionError: no"),
        (0, {"cpu_s": 9.0, "session_alive": True}, Status.OK, ""),
    ],
)
def test_status_and_line(
    files: tuple[int, int], code: int, more: dict[str, Any], status: Status, line: str
) -> None:
    result = result_of(files, code, **more)
    assert (result.status, result.error_line) == (status, line)


@pytest.mark.parametrize(
    ("frames", "peak_mb", "recursion"), [(3, 60, False), (100, 60, True), (3, 140, True)]
)
def test_crash_by_recursion_is_named(
    files: tuple[int, int], frames: int, peak_mb: int, recursion: bool
) -> None:
    lines = [
        "warning",
        "Fatal Python error: Segmentation fault",
        "",
        "Current thread 0x1 (most recent call first):",
    ]
    lines += ['  File "main.py", line 1 in f'] * frames + ["  ..."] * (frames == 100)
    os.write(files[1], "\n".join([*lines, ""]).encode())
    result = result_of(files, -signal.SIGSEGV, peak_bytes=peak_mb << 20)
    assert result.status is Status.ERROR
    assert result.error_line.startswith("RecursionError") == recursion


def test_cut_output_is_a_status_only_after_success(files: tuple[int, int]) -> None:
    os.write(files[0], b"z" * 500)
    assert result_of(files, 0).status is Status.OUTPUT_CUT
    failed = result_of(files, 1, report="ValueError\n")
    assert (failed.status, "output cut" in failed.stdout) == (Status.ERROR, True)


def test_flood_is_not_an_error(files: tuple[int, int]) -> None:
    os.ftruncate(files[0], 1 << 20)
    result = result_of(files, 1, report="OSError: [Errno 27] File too large\n")
    assert (result.status, result.error_line) == (Status.OUTPUT_CUT, "OSError: [Errno 27] File too large")


def test_ended_session_is_reported(files: tuple[int, int]) -> None:
    assert "variables are lost" in result_of(files, 0, session_alive=False).error


@pytest.mark.parametrize(
    ("machine", "abi", "part"), [("aarch64", 7, "64-bit x86"), ("x86_64", 2, "Landlock 2")]
)
def test_probe_refuses_and_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, machine: str, abi: int, part: str
) -> None:
    monkeypatch.setattr(confinement.platform, "machine", lambda: machine)
    monkeypatch.setattr(confinement.kernel, "landlock_abi", lambda: abi)
    with pytest.raises(SandboxUnavailable, match=part):
        probe("auto", allow_unsafe=False)
    assert probe("auto", allow_unsafe=True) == Isolation("unsafe")


def test_probe_finds_a_stack_here() -> None:
    assert probe("auto", allow_unsafe=True).mode == "namespaces"
    assert probe("landlock", allow_unsafe=False).landlock >= 6
