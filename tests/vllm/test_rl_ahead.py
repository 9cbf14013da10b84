"""An asynchronous round samples and evaluates on a pool of two servers, one of which is killed meanwhile."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from tasks.shared.artifacts import Store
from tests.artifacts import publish
from tests.integration.ahead_world import ahead_request, check_account
from tests.integration.evaluation_world import fill_sets
from tests.integration.processes import StageProcess
from tests.integration.rl_world import make_store
from tests.integration.stages import outputs_of, read_lines
from tests.integration.test_rl_round import fetch
from tests.vllm.test_rl_vllm import EXACT, GENERATION

STEPS = 4


@pytest.mark.timeout(1800)
def test_a_server_killed_while_weights_go_to_running_requests(tmp_path: Path) -> None:
    """Every prompt is accounted for. After every push sampler and trainer agree on new sequences.

    Trajectories are of several versions. The first steps are trained while the weights before them are evaluated.
    """
    inputs = make_store(tmp_path, hidden=128)  # vLLM's CPU attention does not support heads of 16
    rows = {"held_out": [(f"held_out/{number}", f"What is {number}?", "1") for number in range(6)]}
    sets = publish(Store(str(tmp_path / "store")), "evaluation_sets", lambda path: fill_sets(path, rows))
    evaluation = {"evaluate_every_steps": STEPS, "evaluate_samples": 16, "evaluate_top_p": 1.0}
    request = ahead_request(
        tmp_path,
        inputs | {"evaluation_sets": sets},
        "round",
        steps_per_round=STEPS,
        probe_bound=EXACT,
        **evaluation,
    )
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
    rollouts = fetch(tmp_path, outputs_of(directory)["rollouts"])
    metrics = read_lines(rollouts / "metrics.jsonl")
    kept = [line["step"] for line in metrics if line["probe_gap"] is None]
    assert kept in ([1], [1, 2])  # during an evaluation of their weights that takes longer than a step
    assert all(line["probe_gap"] < EXACT for line in metrics if line["step"] not in kept)
    points = {point["step"]: point["samples"] for point in read_lines(rollouts / "evaluation.jsonl")}
    assert points == {0: 6 * 16, STEPS: 6 * 16}
    assert any(line["staleness/1"] + line["staleness/2"] for line in metrics)
