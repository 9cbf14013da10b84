"""Limits and settings refuse nonsense; output is cut in the middle; frames survive any split."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.shared.sandbox import ExecutionResult, Limits, SandboxSettings, Status
from tasks.shared.sandbox.compartments import emptying
from tasks.shared.sandbox.metrics import Metrics, percentile
from tasks.shared.sandbox.output import cut_again, cut_middle, read_output, without_host_paths
from tasks.shared.sandbox.protocol import MAX_FRAME, FrameReader, ProtocolError, encode, parse_limits
from tasks.shared.sandbox.records import sandbox_failure


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wall_s": 0.0}, "wall_s = 0.0: give a positive number"),
        ({"memory_mb": -1}, "memory_mb = -1: give a positive number"),
        ({"memory_mb": 2.5}, "whole number"),
        ({"processes": True}, "positive number"),
        ({"cpu_s": float("nan")}, "positive number"),
        ({"wall_s": float("inf")}, "positive number"),
        ({"open_files": 3}, "at least 8"),
        ({"output_chars": 250_001}, "output_chars = 250001: at most 250000"),
    ],
)
def test_limits_refuse_nonsense(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 0}, "workers = 0: at least 1"),
        ({"isolation": "docker"}, "auto, namespaces or landlock"),
        ({"preload": ("os; evil",)}, "not a module name"),
    ],
)
def test_settings_refuse_nonsense(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SandboxSettings(**values)  # type: ignore[arg-type]


def test_result_survives_the_wire() -> None:
    result = ExecutionResult(Status.OUTPUT_CUT, "out", "", "", 0.5, 60.0, "warn", 0.1, 2, True, "namespaces")
    assert ExecutionResult.from_json(asdict(result)) == result
    with pytest.raises(ValueError, match="nonsense"):
        ExecutionResult.from_json({**asdict(result), "status": "nonsense"})
    assert sandbox_failure("gone").status is Status.SANDBOX_FAILURE


def test_cut_middle_keeps_head_and_tail() -> None:
    assert cut_middle("abcdef", 6) == ("abcdef", False)
    text, cut = cut_middle("a" * 50 + "b" * 50, 60)
    assert cut
    assert text == "aaaaaaa\n... [output cut: 87 characters left out] ...\nbbbbbb"
    assert cut_middle("a" * 50 + "b" * 50, 10) == ("aaa\n...\nbb", True)


def test_recut_text_has_one_mark_with_the_total() -> None:
    once, _ = cut_middle("a" * 500 + "b" * 500, 300)
    assert cut_again(once, 200) == cut_middle("a" * 500 + "b" * 500, 200)[0]
    assert cut_again(once, 300) == once
    assert cut_again("c" * 100, 60) == cut_middle("c" * 100, 60)[0]


@given(st.text(max_size=400), st.integers(1, 100))
def test_cut_output_is_bounded_and_says_so(text: str, limit: int) -> None:
    shown, cut = cut_middle(text, limit)
    assert cut == (len(text) > limit)
    assert len(shown) <= limit
    if not cut:
        assert shown == text


def test_paths_of_this_machine_are_not_shown() -> None:
    files = [os.__file__, pytest.__file__, "/scratch/3/abcdefghijklmnopabcdefgh/mine.py"]
    text = "\n".join(f'  File "{file}", line 1' for file in files)
    shown = [line.split('"')[1] for line in without_host_paths(text).splitlines()]
    assert shown == ["os.py", "pytest/__init__.py", "mine.py"]


@pytest.mark.parametrize("size", [0, 10, 799, 800, 801, 5000, 100_000])
def test_memory_file_is_read_at_both_ends(size: int) -> None:
    descriptor = os.memfd_create("test")
    os.write(descriptor, b"HEAD" + b"x" * size + b"TAIL")
    text, cut = read_output(descriptor, 100)
    os.close(descriptor)
    assert text.startswith("HEAD")
    assert text.endswith("TAIL")
    assert cut == (size + 8 > 100)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=5), st.integers(1, 7))
def test_frames_survive_any_split(messages: list[dict[str, int]], step: int) -> None:
    data = b"".join(encode(message) for message in messages)
    reader = FrameReader()
    seen = []
    for place in range(0, len(data), step):
        seen += list(reader.feed(data[place : place + step]))
    assert seen == messages


def test_frame_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        encode({"code": "x" * MAX_FRAME})


def test_limits_of_a_request_fall_back_to_the_servers() -> None:
    default = Limits(wall_s=7.0, memory_mb=99)
    assert parse_limits(None, default) == default
    assert parse_limits({"wall_s": 2}, default) == Limits(wall_s=2, memory_mb=99)


def test_metrics_count_and_rank() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.record(ExecutionResult(Status.OK, "", "", "", number / 1000, 0.0))
    metrics.record(sandbox_failure("x"))
    snapshot = metrics.snapshot()
    assert snapshot["executions"] == 101
    assert snapshot["statuses"] == {
        status.value: {"ok": 100, "sandbox_failure": 1}.get(status.value, 0) for status in Status
    }
    assert snapshot["execution_p50_ms"] == pytest.approx(49, abs=1)
    assert percentile([], 0.5) == 0.0


def test_emptying_follows_no_link_and_needs_no_recursion(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    for number in range(5):
        (inside / str(number)).write_text("in the way")
    deep = inside
    for _ in range(400):
        deep = deep / "d"
        os.mkdir(deep)
    (deep / "file").write_text("x")
    (inside / "shut").mkdir(mode=0)
    for k in range(247):
        (inside / ("emptied-1" + "-" * k)).write_text("a name that could be taken")
    os.mkdir(os.fsencode(inside) + b"/\xff\n" + b"x" * 250)
    os.makedirs(inside / "z" / "b")
    (inside / "many").mkdir()
    for number in range(1200):
        (inside / "many" / str(number)).touch()
    for _ in emptying(str(inside)):
        pass
    assert os.listdir(inside) == []
    assert (outside / "kept").read_text() == "x"


def test_sandbox_needs_the_standard_library_only() -> None:
    code = (
        "import sys\n"
        "import tasks.shared.sandbox.server, tasks.shared.sandbox.interpreter, tasks.shared.sandbox.zygote\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} - sys.stdlib_module_names - {'tasks', '__main__'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.')\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "[]\n"
