"""A round's records beside its weights: metrics, timing, rollouts, sinks, progress. Only the first rank has them.

Opening the files cuts off the lines of steps that are repeated after a kill.
"""

from collections.abc import Mapping
from typing import Any

from tasks.rl.rollouts import RolloutShards
from tasks.rl.spec import RlStage
from tasks.rl.state import Progress
from tasks.shared.contract.environment import world_size
from tasks.shared.contract.scratch import claim
from tasks.shared.contract.stage import StageContext, Value
from tasks.shared.learning.json_lines import JsonLines
from tasks.shared.learning.sinks import MetricsSinks

SHOWN = (
    "reward",
    "accuracy",
    "code_ratio",
    "response_tokens",
    "entropy",
    "gap_max",
    "grad_norm",
    "seconds/step",
)


class RoundRecords:
    """The records of one round, opened at `progress`."""

    def __init__(self, context: StageContext[RlStage], progress: Progress) -> None:
        self._context = context
        self._first_step = progress.first_step
        rollouts = context.scratch / "rollouts"
        claim(rollouts, context.fingerprint(world_size()), "rollouts")
        self.shards = RolloutShards(rollouts)
        self.learning = JsonLines(context.scratch / "metrics.jsonl", progress.step)
        self.timing = JsonLines(context.scratch / "timing.jsonl", progress.step)
        self._sinks = MetricsSinks(context.config.rl.sinks, context.request, progress.step)

    def log(self, metrics: Mapping[str, Value], timing: Mapping[str, Value], health: Any) -> None:
        """Record a finished step; `health`: the tool's, None without one."""
        step = metrics["step"]
        assert isinstance(step, int)
        self.learning.append(metrics)
        self.timing.append({"step": step, **timing, "sandbox": health})
        logged = {**metrics, **timing}
        self._sinks.log(step, logged)
        values = {name: logged[name] for name in SHOWN}
        shown = {name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()}
        steps = self._context.config.rl.steps_per_round
        self._context.progress(step - self._first_step, steps, **shown)

    def log_evaluation(self, point: Mapping[str, Value]) -> None:
        """Send a point of the curve, which has its own file, to the sinks."""
        step = point["step"]
        assert isinstance(step, int)
        self._sinks.log(step, {f"evaluation/{name}": v for name, v in point.items() if name != "round"})
        self._context.log(f"evaluation after step {step}: accuracy {point['accuracy']}")

    def close(self) -> None:
        """Close the sinks."""
        self._sinks.close()
