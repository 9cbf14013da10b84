"""An asynchronous round on a pool of two servers, one of which is killed meanwhile: every prompt is accounted for."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.integration.ahead_world import ahead_request, check_account, steps_of
from tests.integration.processes import StageProcess
from tests.integration.rl_world import make_store
from tests.integration.test_rl_round import fetch, outputs_of
from tests.vllm.test_rl_vllm import EXACT, GENERATION

STEPS = 4


@pytest.mark.timeout(1800)
def test_a_server_killed_while_weights_go_to_running_requests(tmp_path: Path) -> None:
    """After every push sampler and trainer agree on new sequences; trajectories are of several versions."""
    inputs = make_store(tmp_path, hidden=128)  # vLLM's CPU attention knows no heads of 16
    request = ahead_request(tmp_path, inputs, "round", steps_per_round=STEPS, probe_bound=EXACT)
    request.config["generation"] = GENERATION | {"placement": "pool", "pool": {"servers": 2}}
    directory = tmp_path / "round"
    process = StageProcess(directory, request)
    assert process.stdout is not None
    next(line for line in process.stdout if json.loads(line)["event"] == "progress")
    servers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("vllm" in word for word in child.cmdline())
    ]
    servers[0].send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, out[-2000:] + (directory / "stderr.txt").read_text()[-3000:]
    counts = check_account(tmp_path, directory, STEPS)
    assert counts["trained"] == 2 * STEPS
    metrics = steps_of(fetch(tmp_path, outputs_of(directory)["rollouts"]), "metrics.jsonl")
    assert all(line["probe_gap"] < EXACT for line in metrics)
    assert any(line["staleness/1"] + line["staleness/2"] for line in metrics)
