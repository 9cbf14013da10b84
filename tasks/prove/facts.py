"""The facts that a certificate states, derived from its artifacts: by `certify`, and again by `check`."""

from typing import Any

from tasks.prepare.problem_sets import rows_digest
from tasks.prepare.rows import ProblemRow
from tasks.report.inputs import ReportInputs, read_inputs
from tasks.report.main import build_page, summarize
from tasks.report.page import render
from tasks.report.spec import ReportConfig, ReportStage
from tasks.shared.artifacts import ArtifactRef, Manifest, Store
from tasks.shared.artifacts.lineage import lineage
from tasks.shared.config import EvaluateStage
from tasks.shared.contract.stage import StageContext, StageRequest
from tasks.shared.evaluation.problems import EvaluationProblem, read_problems
from tasks.shared.reporting.evaluated import Evaluated, protocol_of, read_evaluated
from tasks.shared.rows.ngrams import ngrams
from tasks.shared.rows.tables import read_table

SEEDS = "first 8 bytes, little-endian, of sha256('<seed>\\0<set>\\0<problem>\\0<sample>'), shifted right by one bit"


def facts(store: Store, evaluations: dict[str, ArtifactRef], name: str) -> dict[str, Any]:
    """Return what the evaluation `name` shows and how it compares with the others, as plain data for JSON.

    Raises ArtifactError or ValueError for an artifact in `store` that is missing, damaged or of another kind.
    """
    evaluated = read_evaluated(store, evaluations[name])
    provenance = evaluated.manifest.provenance
    config = evaluate_config(evaluated.manifest)
    problems = read_problems(store.fetch(provenance.inputs["evaluation_sets"]))
    ancestors = lineage(store, evaluations[name])
    checkpoint = provenance.inputs["checkpoint"]
    inputs = report_inputs(store, evaluations)[1]
    return {
        "checkpoint": {
            "location": checkpoint.location,
            "digest": checkpoint.digest,
            "weights": _weights(ancestors.get(checkpoint)),
        },
        "seed": provenance.seed,
        "seed_of_a_sample": SEEDS,
        "protocol": protocol_of(config),
        "engine": config.generation.engine,
        "sandbox": config.sandbox.model_dump(mode="json", exclude={"address", "workers"}),
        "problems": _problem_digests(problems),
        "scores": _scores(evaluated),
        "comparisons": {
            problem_set: content["differences"] for problem_set, content in summarize(inputs)["sets"].items()
        },
        "decontamination": [
            _decontamination(store, ref, manifest, problems)
            for ref, manifest in ancestors.items()
            if ref.kind == "problems"
        ],
        "lineage": [_ancestor(ref, manifest) for ref, manifest in ancestors.items()],
        "code": provenance.code,
        "versions": evaluated.volatile["surroundings"],
    }


def evaluate_config(manifest: Manifest) -> EvaluateStage:
    """Return the configuration of an evaluation with its own limits. Raises ValueError if it cannot be read."""
    return EvaluateStage.model_validate(manifest.provenance.config).limited()


def report_inputs(
    store: Store, evaluations: dict[str, ArtifactRef]
) -> tuple[StageContext[ReportStage], ReportInputs]:
    """Return what the report stage reads of these evaluations. The last is compared with those before it."""
    manifest = store.manifest(list(evaluations.values())[-1])
    evaluate = evaluate_config(manifest)
    config = ReportStage(
        traces=evaluate.traces,
        sandbox=evaluate.sandbox,
        evaluate=evaluate.evaluate,
        report=ReportConfig(title="Certificate", evaluations=tuple(evaluations)),
    )
    request = StageRequest(
        stage="report",
        run="certificate",
        config=config.model_dump(mode="json"),
        inputs={f"evaluation_{name}": ref for name, ref in evaluations.items()},
        seed=manifest.provenance.seed,
        store=store.root,
        scratch=store.root,
    )
    context = StageContext(request, config, store, store.fetch(manifest.ref))
    return context, read_inputs(context)


def report_html(store: Store, evaluations: dict[str, ArtifactRef]) -> str:
    """Render the report of these evaluations. Equal artifacts and an equal version give equal text."""
    return render(build_page(*report_inputs(store, evaluations)))


def _weights(manifest: Manifest | None) -> dict[str, str]:
    """Return the sha256 of each file of weights; empty if the manifest is no longer in the store."""
    files = manifest.files if manifest else ()
    return {entry.path: entry.sha256 for entry in files if entry.path.endswith(".safetensors")}


def _problem_digests(problems: list[EvaluationProblem]) -> dict[str, Any]:
    """Return number of problems, kind of answer and digest of each set, as `prepare` logs them."""
    sets: dict[str, list[EvaluationProblem]] = {}
    for problem in problems:
        sets.setdefault(problem.set, []).append(problem)
    return {
        name: {
            "problems": len(rows),
            "answer": "integer" if rows[0].integer else "expression",
            "digest": rows_digest([ProblemRow(p.id, p.problem, p.answer, p.set, p.family) for p in rows]),
        }
        for name, rows in sets.items()
    }


def _scores(evaluated: Evaluated) -> dict[str, Any]:
    names = ("accuracy", "interval", "bootstrap", "samples", "samples_per_problem", "void", "samples_digest")
    return {
        problem_set: {name: values[name] for name in names}
        for problem_set, values in evaluated.summary["sets"].items()
    }


def _decontamination(
    store: Store, ref: ArtifactRef, manifest: Manifest | None, evaluation: list[EvaluationProblem]
) -> dict[str, Any]:
    """Return what was removed from these training problems, and which of them overlap with the evaluation problems."""
    if manifest is None:
        return {"problems": ref.location, "in_store": False}
    directory = store.fetch(ref)
    n = int(manifest.provenance.config.get("data", {}).get("decontaminate_ngram", 8))
    grams = {gram for problem in evaluation for gram in ngrams(problem.problem, n)}
    kept = read_table(directory / "train.parquet")
    removed_file = directory / "removed.parquet"
    removed = read_table(removed_file) if removed_file.is_file() else []
    overlapping = [row["id"] for row in kept if any(gram in grams for gram in ngrams(row["problem"], n))]
    return {
        "problems": ref.location,
        "in_store": True,
        "words": n,
        "kept": len(kept),
        "removed": len(removed),
        "kept_that_overlap": len(overlapping),
        "first_that_overlap": overlapping[:10],
    }


def _ancestor(ref: ArtifactRef, manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        return {"location": ref.location, "digest": ref.digest, "in_store": False}
    provenance = manifest.provenance
    return {
        "location": ref.location,
        "digest": ref.digest,
        "in_store": True,
        "stage": provenance.stage,
        "seed": provenance.seed,
        "code": provenance.code,
        "inputs": {name: parent.location for name, parent in provenance.inputs.items()},
    }
