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
    """Write, execute and verify traces, which must not overlap with the evaluation sets.

    `checkpoint`: the model that mode `bootstrap` samples from. `responses`: raw responses of an earlier run, which are
    used again. `pass_rates`: rollouts, or an evaluation of the training problems, from which their difficulty follows.
    """
    settings = run.recipe.synthesize
    source = None
    if settings.mode == "rewrite" and settings.source.source == "traces":
        source = RunRecords(run.store).read(settings.source.run).output("synthesize", "traces")
    optional = {
        "checkpoint": checkpoint if settings.mode == "bootstrap" else None,
        "responses": responses,
        "pass_rates": pass_rates,
        "source": source,
    }
    inputs = {"problems": problems, "evaluation_sets": evaluation_sets}
    inputs |= {name: ref for name, ref in optional.items() if ref is not None}
    texts = settings.source.path if settings.mode == "rewrite" and settings.source.source == "file" else ""
    weights = settings.teacher.model if settings.uses_engine and settings.mode != "bootstrap" else ""
    files = tuple(Path(path) for path in (texts, settings.prompt, settings.responses, weights) if path)
    return run_stage(run, SYNTHESIZE, inputs, label, files=files).outputs["traces"]
