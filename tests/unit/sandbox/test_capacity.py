"""How many sessions fit, from a tree of cgroups made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.shared.sandbox import SandboxSettings, capacity


def test_processes_left_is_the_tightest_of_the_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.read_text
    text = "4:memory:/other\n0::/outer/inner\n"
    monkeypatch.setattr(
        Path, "read_text", lambda self: text if str(self) == "/proc/self/cgroup" else original(self)
    )
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    assert capacity.processes_left(tmp_path) is None
    for level, most, current in ((inner, "max", "3"), (inner.parent, "512", "12")):
        (level / "pids.max").write_text(f"{most}\n")
        (level / "pids.current").write_text(f"{current}\n")
    assert capacity.processes_left(tmp_path) == 500


def test_sessions_are_cut_to_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "processes_left", lambda: 512)
    fitting = capacity.sessions_that_fit(SandboxSettings(workers=2, slots=2))
    assert 400 < fitting < 512 - 2 * 2
    assert capacity.sessions_that_fit(SandboxSettings(max_sessions=7)) == 7
    monkeypatch.setattr(capacity, "processes_left", lambda: 0)
    assert capacity.sessions_that_fit(SandboxSettings()) == 1
