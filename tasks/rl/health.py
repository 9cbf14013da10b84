"""The conditions for a round to continue: a working sandbox, a learning signal, a policy that still explores.

A step that violates one stops the round before its state is saved. The round resumes from the last saved step.
"""

from tasks.rl.config import RlConfig
from tasks.rl.experience import Experience
from tasks.rl.update import UpdateResult
from tasks.shared.contract.stage import TrainingStopped

MOST_OUTAGES = 0.5  # share of a step's trajectories; with more, the sandbox counts as broken


def require_experience(experience: Experience, step: int, config: RlConfig) -> None:
    """TrainingStopped if the sandbox failed for most trajectories, or the loss is empty and may not be."""
    outages, total = int(experience.outage.sum()), len(experience.outage)
    if outages > MOST_OUTAGES * total:
        raise TrainingStopped(
            f"step {step}: the sandbox failed under {outages} of {total} trajectories, each tried several times; "
            "see its health in timing.jsonl, then run the stage again: it resumes from its last saved step"
        )
    if config.on_empty_step == "skip" or experience.in_loss.any():
        return
    outcomes = {row.outcome for row in experience.graded}
    shown = (
        f"all outcomes are {outcomes.pop():g}" if len(outcomes) == 1 else "no group has outcomes that differ"
    )
    raise TrainingStopped(
        f"step {step}: the filters left none of {total} trajectories in the loss ({shown}, "
        f"{int(experience.void_turn.sum())} void, {outages} outages); take problems of another difficulty, "
        "raise rl.samples_per_prompt, or skip such steps with rl.on_empty_step = 'skip'"
    )


def require_entropy(result: UpdateResult, step: int, config: RlConfig) -> None:
    """TrainingStopped if the policy that sampled this step has collapsed."""
    if not (config.min_entropy and result.sums.tokens):
        return
    entropy = result.sums.entropy / result.sums.tokens
    if entropy < config.min_entropy:
        raise TrainingStopped(
            f"step {step}: the policy's entropy is {entropy:.3g} nats a token, below rl.min_entropy = "
            f"{config.min_entropy:g}: it has collapsed. Go on from an earlier round with a lower "
            "rl.optimizer.learning_rate, a higher rl.clip_high, or rl.entropy_coefficient"
        )
