"""An attempt at a stage without Prefect: results, errors in one line, resuming, stopping, two runs of the same work."""

import fcntl
import json
import os
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tasks.launch.backends.attempt import (
    Event,
    StageFailed,
    StageLost,
    StageStopped,
    parse_event,
    run_on_backend,
)
from tasks.launch.backends.backend import Away
from tasks.launch.backends.process import ProcessBackend, RunningProcess
from tasks.prepare.spec import PREPARE
from tasks.recipes import load_recipe
from tasks.shared.artifacts import Store
from tasks.shared.contract.environment import stage_environment
from tasks.shared.contract.stage import StageRequest, StageResult
from tests.preloaded.environment import interpreter

SECTIONS = load_recipe("tiny").for_stage("sft")
RESULT = StageResult(outputs={}, metrics={"loss": 1.5})


class ScriptBackend(ProcessBackend):
    """The process backend with a Python program in the stage's place; it gets the request's path as argument."""

    def __init__(self, script: str) -> None:
        super().__init__(grace_s=1.0)
        self.script = "import json, os, sys, time, pathlib\nrequest = pathlib.Path(sys.argv[1])\n" + script

    def command(self, engine: str, stage: str, request_path: Path) -> list[str]:
        return [sys.executable, "-c", self.script, str(request_path)]


def finish(before: str = "") -> str:
    """A program that does `before` and then writes the result."""
    return f"{before}\nrequest.with_name('result.json').write_text({RESULT.model_dump_json()!r})\n"


def make_request(tmp_path: Path) -> StageRequest:
    return StageRequest(
        stage="sft",
        run="demo",
        config=SECTIONS.model_dump(mode="json"),
        inputs={},
        seed=1,
        store=str(tmp_path / "store"),
        scratch=str(tmp_path / "scratch" / "sft-0123"),
    )


def run(tmp_path: Path, script: str, fresh: bool = False) -> tuple[StageResult, list[Event]]:
    events: list[Event] = []
    backend = ScriptBackend(script)
    return run_on_backend(
        make_request(tmp_path), backend, tmp_path / "log", events.append, fresh=fresh
    ), events


def test_events_are_handed_on_and_everything_is_logged(tmp_path: Path) -> None:
    emit = "print(json.dumps({'event': 'progress', 'step': 1, 'total': 2})); print('a library speaks');"
    result, events = run(tmp_path, finish(emit + "print('and so', file=sys.stderr)"))
    assert result == RESULT
    assert events == [{"event": "progress", "step": 1, "total": 2}]
    log = (tmp_path / "log").read_text()
    assert all(part in log for part in ("progress", "a library speaks", "and so"))


def test_text_that_is_no_event_is_not_taken_for_one() -> None:
    for line in ("", "{", "[1]", "{}", '{"event": 1}', '"event"', "{'event': 'log'}"):
        assert parse_event(line) is None
    assert parse_event('{"event": "log"}') == {"event": "log"}


def test_a_stage_s_own_error_is_the_message(tmp_path: Path) -> None:
    script = (
        "print(json.dumps({'event': 'error', 'message': 'x.jsonl: row 3: no answer; add one'})); sys.exit(2)"
    )
    with pytest.raises(StageFailed, match=r"^stage 'sft': x\.jsonl: row 3: no answer; add one$"):
        run(tmp_path, script)


def test_a_crash_shows_the_last_words_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(
        StageFailed, match=r"exit code 1; log: .*/log; it ends: .*ZeroDivisionError"
    ) as caught:
        run(tmp_path, "1 / 0")
    assert "\n" not in str(caught.value)


def test_a_killed_stage_keeps_its_scratch_and_a_finished_one_does_not(tmp_path: Path) -> None:
    kill = "request.with_name('step-10').write_text('1'); os.kill(os.getpid(), 9)"
    with pytest.raises(StageFailed, match="killed by SIGKILL"):
        run(tmp_path, kill)
    look = "print(json.dumps({'event': 'log', 'message': sorted(p.name for p in request.parent.iterdir())}))"
    _, events = run(tmp_path, finish(look))
    assert events[0]["message"] == ["request.json", "step-10"]
    assert sorted(path.name for path in Path(make_request(tmp_path).scratch).iterdir()) == [
        "request.json",
        "result.json",
    ]
    (Path(make_request(tmp_path).scratch) / "step-10").write_text("1")
    _, events = run(tmp_path, finish(look), fresh=True)
    assert events[0]["message"] == ["request.json"]


def test_an_exit_code_of_no_signal_is_reported_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"^stage 'sft' failed with exit code 255; log: "):
        run(tmp_path, "sys.exit(255)")


def test_a_cancelled_run_does_not_wait_for_another_one(tmp_path: Path) -> None:
    request = make_request(tmp_path)
    (tmp_path / "scratch").mkdir()
    with Path(f"{request.scratch}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StageStopped, match=r"cancelled$"):
            run_on_backend(request, ScriptBackend(""), tmp_path / "log", lambda _: None, lambda: True)


def test_success_without_a_result_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="exit code 0"):
        run(tmp_path, "pass")


def test_a_cancelled_run_stops_its_stage(tmp_path: Path) -> None:
    script = "print(json.dumps({'event': 'log', 'message': os.getpid()}), flush=True); time.sleep(600)"
    events: list[Event] = []
    with pytest.raises(StageStopped, match="cancelled"):
        run_on_backend(
            make_request(tmp_path),
            ScriptBackend(script),
            tmp_path / "log",
            events.append,
            lambda: bool(events),
        )
    assert not psutil.pid_exists(events[0]["message"])


def test_an_exception_in_the_flow_stops_the_stage(tmp_path: Path) -> None:
    script = "print(json.dumps({'event': 'log', 'message': os.getpid()}), flush=True); time.sleep(600)"
    pids: list[int] = []

    def interrupt(event: Event) -> None:
        pids.append(event["message"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_backend(make_request(tmp_path), ScriptBackend(script), tmp_path / "log", interrupt)
    assert not psutil.pid_exists(pids[0])


def test_two_runs_of_the_same_work_do_it_once(tmp_path: Path) -> None:
    script = finish("open(request.parents[1] / 'count', 'a').write('x'); time.sleep(1)")
    results: list[StageResult] = []
    threads = [threading.Thread(target=lambda: results.append(run(tmp_path, script)[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [RESULT] * 3
    assert (tmp_path / "scratch" / "count").read_text() == "x"


def test_a_stage_sees_only_the_allowed_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = ("PREFECT_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SOME_PASSWORD")
    for name in canaries:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    _, events = run(tmp_path, finish("print(json.dumps({'event': 'log', 'message': dict(os.environ)}))"))
    seen = events[0]["message"]
    assert not set(canaries) & set(seen)
    assert seen["OMP_NUM_THREADS"] == "1"
    assert "HF_TOKEN" in stage_environment(PREPARE.secrets, SECTIONS)
    monkeypatch.setenv("TIRFLOW_STORE", "s3://bucket")
    assert stage_environment((), SECTIONS)["AWS_SECRET_ACCESS_KEY"] == "canary"


def test_a_real_stage_runs_alike_by_hand_and_by_the_backend(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text(
        "".join(json.dumps({"problem": f"What is {n} plus {n}?", "answer": 2 * n}) + "\n" for n in range(9))
    )
    config = {
        "model": {"source": "tiny", "dtype": "float32"},
        "data": {
            "train": [{"name": "mine", "source": "file", "path": str(problems)}],
            "evaluation": [{"name": "held_out", "source": "tiny", "split": "held_out", "limit": 5}],
        },
    }
    request = make_request(tmp_path).model_copy(update={"stage": "prepare", "config": config})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(interpreter(("tasks.prepare.main",))))
        result = run_on_backend(request, ProcessBackend(), tmp_path / "log", lambda _: None)
    assert result.metrics["train_problems"] == 9
    by_hand = tmp_path / "by_hand"
    by_hand.mkdir()
    (by_hand / "request.json").write_text(request.model_dump_json())
    command = [sys.executable, "-m", "tasks.prepare.main", str(by_hand / "request.json")]
    assert os.spawnv(os.P_WAIT, sys.executable, command) == 0
    again = StageResult.model_validate_json((by_hand / "result.json").read_text())
    assert again.outputs == result.outputs
    manifest = Store(request.store).manifest(result.outputs["problems"])
    assert manifest.provenance.stage == "prepare"
    assert len(manifest.provenance.code) == 64


class AwayBackend(ScriptBackend):
    """A backend that does not answer."""

    def start(self, request_path: Path, log_path: Path, lock: int) -> RunningProcess:
        raise Away("no engine answers; start one")


def test_a_silent_backend_is_retried(tmp_path: Path) -> None:
    with pytest.raises(StageLost, match=r"^stage 'sft': no engine answers; start one$"):
        run_on_backend(make_request(tmp_path), AwayBackend(""), tmp_path / "log", lambda _: None)
    assert run(tmp_path, finish())[0] == RESULT, "its scratch directory is free again"
