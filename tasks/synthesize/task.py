"""What Prefect sees of `synthesize`: verified traces of the training problems, or of texts that were rewritten."""

from pathlib import Path

from tasks.launch import Run, run_stage
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.runs.record import RunRecords
from tasks.synthesize.spec import SYNTHESIZE


def synthesize(
    run: Run,
    problems: ArtifactRef,
    evaluation_sets: ArtifactRef,
    checkpoint: ArtifactRef | None = None,
    responses: ArtifactRef | None = None,
    pass_rates: ArtifactRef | None = None,
    label: str = "",
) -> ArtifactRef:
    """Write, execute and verify traces; the evaluation sets are what they must stay clear of.

    `checkpoint`: the model that mode `bootstrap` samples from. `responses`: raw responses of an earlier run, which are
    not asked for again. `pass_rates`: rollouts, or an evaluation of the training problems, that say how hard each is.
    """
    settings = run.recipe.synthesize
    inputs = {"problems": problems, "evaluation_sets": evaluation_sets}
    if settings.mode == "bootstrap" and checkpoint is not None:
        inputs["checkpoint"] = checkpoint
    if responses is not None:
        inputs["responses"] = responses
    if pass_rates is not None:
        inputs["pass_rates"] = pass_rates
    if settings.mode == "rewrite" and settings.source.source == "traces":
        inputs["source"] = RunRecords(run.store).read(settings.source.run).output("synthesize", "traces")
    texts = settings.source.path if settings.mode == "rewrite" and settings.source.source == "file" else ""
    weights = settings.teacher.model if settings.uses_engine and settings.mode != "bootstrap" else ""
    files = tuple(Path(path) for path in (texts, settings.prompt, settings.responses, weights) if path)
    return run_stage(run, SYNTHESIZE, inputs, label, files=files).outputs["traces"]
