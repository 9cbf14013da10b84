"""Stage `rl`: one round of steps with live code.

    python -m tasks.rl.main request.json

Inputs: `checkpoint`, `problems`; from the second round on `trainer_state`; with rl.kl_coefficient `reference`; with
rl.evaluate_every_steps `evaluation_sets`. Outputs: `checkpoint` (with metrics.jsonl); `rollouts` (with metrics.jsonl,
circumstances/timing.jsonl, evaluation.jsonl if evaluated, journal.jsonl if sampled ahead); `trainer_state` (with PPO's
critic); with rl.optimizer.lora `adapter`, whose base is `reference` from the second round on; with rl.keep = "best"
`best`, the best checkpoint of all rounds so far, an input of the next. With input `record`, the rollouts of a round, it
trains on them again, and neither samples nor evaluates.
If killed, it resumes from its scratch directory. With rl.optimizer.ranks > 1 it starts itself again under torchrun.
"""

import shutil
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from tasks.rl.evaluation import EVALUATION_FILE, Curve
from tasks.rl.inputs import read_base, require_no_experts, require_one_round
from tasks.rl.problems import read_problems, require_problems
from tasks.rl.reward_function import RewardFunction
from tasks.rl.round import RlRound
from tasks.rl.spec import RL, RlStage
from tasks.shared.artifacts import VOLATILE, ArtifactRef
from tasks.shared.contract.environment import under_launcher
from tasks.shared.contract.stage import StageContext, StageResult, Value, stage_main
from tasks.shared.generation.engines import open_generator, sample_for_others
from tasks.shared.learning.adapter import save_adapter
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.distributed import leave_to_first_rank, run_on_ranks, start_process_group
from tasks.shared.learning.logprobs import use_packed_attention
from tasks.shared.tools.interpreter import open_tool

HEADLINE = (
    "reward",
    "accuracy",
    "code_ratio",
    "pass_ratio",
    "response_tokens",
    "void_ratio",
    "entropy",
    "gap_max",
)
TIMING_FILE = f"{VOLATILE}/timing.jsonl"
RECENT = 5  # steps whose mean is the headline, because one step is noisy


def run(context: StageContext[RlStage]) -> StageResult:
    """Load, run the round, publish."""
    rendezvous, ranks = context.request.rendezvous, context.config.rl.optimizer.ranks
    if rendezvous is not None and rendezvous.only_samples:
        config = context.config
        return sample_for_others(context, config.generation, config.model, context.input("checkpoint"))
    if ranks > 1 and not under_launcher():
        return run_on_ranks("tasks.rl.main", context, ranks)
    start_process_group()
    # its state is saved, and torch starts each process with another one
    torch.manual_seed(context.request.seed)
    with ExitStack() as stack:
        this_round = _load(context, stack)
        this_round.run()
        state_dict, adapter = this_round.engine.state_dict(), this_round.engine.adapter()
        leave_to_first_rank()
    return _publish(context, this_round, state_dict, adapter)


def _load(context: StageContext[RlStage], stack: ExitStack) -> RlRound:
    """Load everything that the round needs; tool and engine end with `stack`."""
    config = context.config
    is_recorded = "record" in context.request.inputs
    require_one_round(context)
    require_no_experts(context)
    checkpoint, base = context.input("checkpoint"), context.store.fetch(read_base(context))
    tokenizer = load_tokenizer(checkpoint)
    problems, num_too_long = read_problems(context.input("problems"), tokenizer, config)
    require_problems(problems, config.rl.prompts_per_step)
    judge = stack.enter_context(RewardFunction(config.rl)) if config.rl.reward else None
    reference: PreTrainedModel | None = None
    if config.rl.kl_coefficient and config.rl.optimizer.lora is None:  # adapters have their base as reference
        reference = load_model(context.input("reference"), config.model).eval().requires_grad_(False)
        use_packed_attention(reference)
    context.log(
        f"{len(problems)} problems, {num_too_long} more left out: prompt over generation.max_prompt_tokens"
    )
    tool = None
    if config.traces.max_calls and not is_recorded:
        tool = stack.enter_context(open_tool(config.sandbox))
    generator = None
    if not is_recorded:
        generator = stack.enter_context(
            open_generator(
                config.generation,
                config.model,
                checkpoint,
                tokenizer,
                scratch=context.scratch,
                rendezvous=context.request.rendezvous,
                num_training=config.rl.optimizer.ranks,
                can_sleep=config.rl.sleep_sampler,
            )
        )
    return RlRound(
        context,
        load_model=partial(load_model, base, config.model),
        reference=reference,
        tokenizer=tokenizer,
        problems=problems,
        generator=generator,
        tool=tool,
        judge=judge,
    )


def _publish(
    context: StageContext[RlStage], this_round: RlRound, state_dict: Any, adapter: dict[str, torch.Tensor]
) -> StageResult:
    """Publish the artifacts of the round. The launcher then removes its scratch directory."""
    metrics = _headline(this_round.records.learning.read())
    first, last = this_round.progress.first_step + 1, this_round.last_step
    outputs: dict[str, ArtifactRef] = {}
    with context.output("rollouts", metrics) as output:
        this_round.records.shards.publish(output.directory, first, last)
        this_round.sampler.publish(output.directory)
        shutil.copyfile(context.scratch / "timing.jsonl", output.directory / TIMING_FILE)
        if this_round.curve is not None:
            shutil.copyfile(context.scratch / EVALUATION_FILE, output.directory / EVALUATION_FILE)
        shutil.copyfile(context.scratch / "metrics.jsonl", output.directory / "metrics.jsonl")
    outputs["rollouts"] = output.ref
    with context.output("trainer_state", {"step": last, "round": this_round.progress.round}) as output:
        this_round.states.copy_last(output.directory)
    outputs["trainer_state"] = output.ref
    with context.output("checkpoint", metrics) as output:
        tokenizer = load_tokenizer(context.input("checkpoint"))
        save_checkpoint(this_round.engine.module, tokenizer, output.directory, state_dict)
        shutil.copyfile(context.scratch / "metrics.jsonl", output.directory / "metrics.jsonl")
    outputs["checkpoint"] = output.ref
    if lora := context.config.rl.optimizer.lora:
        with context.output("adapter", metrics) as output:
            save_adapter(adapter, lora, read_base(context), output.directory)
        outputs["adapter"] = output.ref
    if context.config.rl.keep == "best" and this_round.curve is not None:
        outputs["best"] = _publish_best(context, this_round.curve)
    return StageResult(outputs=outputs, metrics=metrics)


def _publish_best(context: StageContext[RlStage], curve: Curve) -> ArtifactRef:
    """The best checkpoint of this round, or the earlier rounds' best if it is at least as good."""
    found, before = curve.best(), context.request.inputs.get("best")
    if before is not None:
        accuracy = context.store.manifest(before).metrics["accuracy"]
        assert isinstance(accuracy, int | float)
        if found is None or found[0]["accuracy"] <= accuracy:
            return before
    if found is None:
        raise ValueError(
            "rl.keep = 'best': no evaluation of this round has a graded sample; see the sandbox's health in the log"
        )
    point, weights = found
    metrics = {name: value for name, value in point.items() if name != "round"}
    with context.output("checkpoint", metrics) as output:
        shutil.copytree(weights, output.directory, dirs_exist_ok=True)
    return output.ref


def _headline(records: list[dict[str, Any]]) -> dict[str, Value]:
    """Means over the first and the last few steps, leaving out steps without a value."""
    metrics: dict[str, Value] = {"steps": len(records), "round": records[-1]["round"]}
    for name in HEADLINE:
        for prefix, some in (("first_", records[:RECENT]), ("", records[-RECENT:])):
            values = [record[name] for record in some if record[name] is not None]
            if values:
                metrics[prefix + name] = round(sum(values) / len(values), 5)
    for name in ("outages", "skipped_updates"):
        metrics[name] = sum(record[name] for record in records)
    metrics["empty_steps"] = sum(record["in_loss"] == 0 for record in records)
    return metrics


if __name__ == "__main__":
    raise SystemExit(stage_main(RL, run))
