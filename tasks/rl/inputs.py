"""Checks that a round's input artifacts fit together, and chooses the one that holds its policy."""

from tasks.rl.spec import RlStage
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageContext
from tasks.shared.learning.checkpoints import has_experts


def require_one_round(context: StageContext[RlStage]) -> None:
    """ValueError unless `checkpoint` and `trainer_state` come from the same round."""
    inputs = context.request.inputs
    if "trainer_state" not in inputs:
        return
    checkpoint, state = (context.store.manifest(inputs[name]) for name in ("checkpoint", "trainer_state"))
    if checkpoint.provenance != state.provenance:
        raise ValueError(
            f"rl: input 'checkpoint' {context.store.describe(inputs['checkpoint'])} is not of the round that made "
            "'trainer_state', whose weights this round would train; give both of one round, or no trainer_state"
        )


def require_no_experts(context: StageContext[RlStage]) -> None:
    """ValueError for a mixture of experts."""
    checkpoint = context.input("checkpoint")
    if has_experts(checkpoint):
        raise ValueError(
            f"{checkpoint}: a mixture of experts, whose routing would differ between sampler and trainer: there is no "
            "router replay; train a dense model by RL, or this one by SFT alone"
        )


def read_base(context: StageContext[RlStage]) -> ArtifactRef:
    """The artifact with the policy's frozen weights: the checkpoint, or with adapters their base.

    Adapters of every round have the first round's checkpoint as their base and as the reference of the KL term. From
    the second round on it is the input 'reference'. Raises ValueError if that is missing or another checkpoint.
    """
    inputs = context.request.inputs
    base = inputs["checkpoint"]
    if context.config.rl.optimizer.lora is None:
        return base
    if "trainer_state" in inputs:
        before = context.store.manifest(inputs["trainer_state"]).provenance.inputs
        base = before["reference" if "trainer_state" in before else "checkpoint"]
        if "reference" not in inputs:
            raise ValueError(
                "rl: with rl.optimizer.lora a later round needs input 'reference': the base of the adapters, "
                f"{context.store.describe(base)}"
            )
    given = inputs.get("reference", base)
    if given.digest != base.digest:
        raise ValueError(
            f"rl: input 'reference' {context.store.describe(given)} is not the base of the adapters, "
            f"{context.store.describe(base)}: with rl.optimizer.lora the reference is that; give it, or no reference"
        )
    return given
