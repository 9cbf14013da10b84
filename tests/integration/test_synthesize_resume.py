"""A stage with a paid teacher, killed four times: no answered request is repeated, and the traces are the same.

The processes are forked from one that has imported the stage; the kills are real.
"""

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pandas

from tasks.shared.artifacts import Store
from tasks.shared.contract.stage import StageRequest
from tasks.shared.generation.endpoint.responses import ResponseLog
from tests.integration.processes import StageProcess
from tests.integration.stages import in_process
from tests.integration.synthesis_world import make_request
from tests.integration.teacher_server import TeacherServer, serve

CASES = ["honest", "error_500", "stray_tags"] * 12
NUM_KILLS = 4
TEACHER = {"concurrency": 4, "max_wait_s": 0.05}
Turn = tuple[str, int]  # problem id, number of the turn


def test_kills_cost_nothing_and_change_nothing(tmp_path):
    draw = random.Random(0)
    kept: set[Turn] = set()
    with serve(delay_s=0.03) as server:
        request = make_request(tmp_path, CASES, server.base_url, teacher=TEACHER)
        for _ in range(NUM_KILLS):
            num_asked = len(server.asked)
            stage = StageProcess(tmp_path / "stage", request)
            while len(server.asked) < num_asked + draw.randrange(8, 20):
                assert stage.poll() is None, "the stage ended before it was killed"
                time.sleep(0.005)
            stage.kill()
            assert stage.wait() == -signal.SIGKILL
            assert not kept & asked_since(server, request, num_asked), "a logged response was requested again"
            kept = answered(request, tmp_path / "copy.jsonl.gz")
        num_asked = len(server.asked)
        result = in_process(request)
        assert not kept & asked_since(server, request, num_asked)
        attempts = Counter(asked.idempotency_key for asked in server.asked)
    # a request in flight at a kill is repeated under its key, so that it need not be charged twice
    assert 0 < sum(count - 1 for count in attempts.values()) <= NUM_KILLS * TEACHER["concurrency"]

    with serve() as server:
        whole = in_process(make_request(tmp_path / "whole", CASES, server.base_url, teacher=TEACHER))
    assert result.outputs["traces"].digest == whole.outputs["traces"].digest
    assert result.outputs["responses"].digest == whole.outputs["responses"].digest
    counts = ("written", "accepted", "teacher_prompt_tokens", "teacher_completion_tokens")
    assert [result.metrics[name] for name in counts] == [whole.metrics[name] for name in counts]
    assert result.metrics["written"] == len(CASES)


def asked_since(server: TeacherServer, request: StageRequest, start: int) -> set[Turn]:
    """The server's requests from number `start` on."""
    problems = pandas.read_parquet(Store(request.store).fetch(request.inputs["problems"]) / "train.parquet")
    ids = dict(zip(problems["problem"], problems["id"], strict=True))
    turns = [
        (asked.body["messages"][0]["content"], len(asked.body["messages"]) // 2)
        for asked in server.asked[start:]
    ]
    return {(next(ids[problem] for problem in ids if problem in prompt), turn) for prompt, turn in turns}


def answered(request: StageRequest, copy: Path) -> set[Turn]:
    """The responses in the killed stage's log."""
    ResponseLog(Path(request.scratch) / "responses").write(copy)
    rows = pandas.read_json(copy, lines=True)
    return set(zip(rows["problem_id"], rows["turn"], strict=True))
