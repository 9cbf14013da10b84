"""An asynchronous round that is killed at seeded moments until it ends, and a check of every prompt it drew."""

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from tasks.rl.journal import Journal
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import StageRequest
from tests.integration.processes import StageProcess
from tests.integration.rl_world import make_request
from tests.integration.stages import outputs_of

STALENESS = 2


def ahead_request(root: Path, inputs: dict[str, ArtifactRef], scratch: str, **rl: Any) -> StageRequest:
    """A round with the Transformers engine beside the trainer; a state is saved at every second step."""
    settings = {"staleness": STALENESS, "update_in_flight": True, "checkpoint_every_steps": 2, **rl}
    request = make_request(root, inputs, scratch)
    config = request.config
    config["generation"] |= {"placement": "beside", "max_sequences": 16}
    config["rl"] |= {"prompts_per_step": 2, "samples_per_prompt": 4, "steps_per_round": 5, **settings}
    return request.model_copy(update={"config": config})


def killed_until_it_ends(directory: Path, request: StageRequest, kills: int, seed: int) -> Counter[str]:
    """Kill the trainer or its sampler after a random number of journal lines, `kills` times. Returns the targets."""
    moments, hits = random.Random(seed), Counter[str]()
    journal = Path(request.scratch) / "ahead" / "journal.jsonl"
    while hits.total() < kills:
        process = StageProcess(directory, request)
        lines = _num_lines(journal) + moments.randrange(1, 8)
        stage = psutil.Process(process.pid)
        while process.poll() is None and _num_lines(journal) < lines:
            time.sleep(0.01)
        if process.poll() == 0:
            return hits  # it has ended before the kill
        name = "sampler" if moments.random() < 0.3 else "trainer"
        victim = _sampler(stage) if name == "sampler" else stage
        if process.poll() is None and victim is not None:
            victim.kill()
            hits[name] += 1
        expected = (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert process.wait(60) in expected, (directory / "stderr.txt").read_text()[-3000:]
    process = StageProcess(directory, request)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-2000:] + (directory / "stderr.txt").read_text()[-3000:]
    return hits


def check_account(root: Path, directory: Path, steps: int) -> Counter[str]:
    """Check that each draw is in the rollouts of one step or dropped in the journal. Returns both counts."""
    rollouts = Store(str(root / "store")).fetch(outputs_of(directory)["rollouts"])
    account = Journal(rollouts / "journal.jsonl").account
    rows = pd.read_parquet(rollouts / "train.parquet")
    uses = Counter(draw for draws in account.taken.values() for draw in draws)
    assert not account.open and set(uses.values()) == {1} and all(account.dropped.values())
    assert sorted(account.taken) == list(range(1, steps + 1)) == sorted(rows.step.unique())
    for step, trained in rows.groupby("step"):
        problems = [account.drawn[draw].problem_id for draw in account.taken[step]]
        assert trained.drop_duplicates("group").problem_id.tolist() == problems
        assert trained.groupby("group").size().eq(4).all()
        for row in trained.itertuples():
            ages = [step - 1 - version["step"] for version in row.versions]
            assert min(ages) >= 0 and max(ages) == ages[0] <= STALENESS
            assert sum(version["tokens"] for version in row.versions) == sum(row.sampled)
    return Counter(drawn=len(account.drawn), trained=len(uses), dropped=len(account.dropped))


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _sampler(stage: psutil.Process) -> psutil.Process | None:
    words = "tasks.shared.generation.beside_process"
    return next((child for child in stage.children() if words in child.cmdline()), None)
