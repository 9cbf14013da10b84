"""ZeRO-3 at a real vocabulary: ranks with unequal numbers of targets gather the output head equally often."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.zero3_world import VOCABULARY, measure
from tests.preloaded.environment import interpreter


@pytest.mark.timeout(400)
def test_two_ranks_with_unequal_targets_equal_one(tmp_path: Path) -> None:
    """SFT, policy, critic and probe, also with rows without targets.

    DeepSpeed knows the order of modules throughout. The second rank has no trajectories and gets the rows that it
    would have cut itself.
    """
    out = tmp_path / "found.json"
    python = interpreter(("torch.distributed.run", "tests.integration.zero3_world"))
    launcher = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ranks = subprocess.run(
        [*launcher, "-m", "tests.integration.zero3_world", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_GLOO_LAZY_INIT": "0"},
        timeout=300,
    )
    assert ranks.returncode == 0, ranks.stderr[-4000:]
    two, one = json.loads(out.read_text()), measure()
    for part in ("sft", "critic"):
        assert two[part] == pytest.approx(one[part], rel=1e-3), part
    for part in ("values", "policy"):
        for found, expected in zip(two[part], one[part], strict=True):
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), part
    assert two["probe"] < 1e-4
    assert two["in_memory"] == one["in_memory"] > VOCABULARY, (
        "one copy of the model on a host, not one a rank"
    )
    assert two["dealt"] == one["dealt"] == 4
    assert two["sft_traced"] and two["traced"] == one["traced"] == [True, True]
