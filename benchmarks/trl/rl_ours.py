"""Stage `rl` as it is, a lap each step. benchmarks/rl.py starts it.

python -m benchmarks.trl.rl_ours request.json
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.trl.laps import Track
from tasks.rl.main import run
from tasks.rl.spec import RlStage
from tasks.shared.artifacts import Store
from tasks.shared.contract.stage import StageContext, StageRequest, Value


@dataclass(slots=True)
class PacedContext(StageContext[RlStage]):
    """Ends a lap where the stage reports a step."""

    track: Track

    def progress(self, step: int, total: int, **metrics: Value) -> None:
        """End a lap with the figures of the lines that the step has just written."""
        learning, timing = (
            json.loads((self.scratch / name).read_text().splitlines()[-1])
            for name in ("metrics.jsonl", "timing.jsonl")
        )
        self.track.lap(
            sampled_tokens=learning["sampled_tokens"] * learning["trajectories"],
            response_tokens=learning["response_tokens"],
            calls=learning["calls"],
            reward=learning["reward"],
            sampling_s=timing["seconds/sample"],
        )


def main() -> None:
    """Run the round until no turn comes."""
    track = Track()
    request = StageRequest.model_validate_json(Path(sys.argv[1]).read_text())
    scratch = Path(request.scratch)
    scratch.mkdir(parents=True)
    config = RlStage.model_validate(request.config)
    run(PacedContext(request, config, Store(request.store), scratch, track))


if __name__ == "__main__":
    main()
