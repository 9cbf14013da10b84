"""With the checkpoint at hand: some samples are drawn again, from their seeds, and their ids compared.

This alone proves that the checkpoint said what the certificate says. Which samples are drawn is chance of the reader's,
so that nobody can prepare for it.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.prove.evaluation import config_of, samples_of
from tasks.prove.evidence import Evidence
from tasks.prove.findings import CHANGED, MISSING, MODEL, ROUNDING, SANDBOX, Difference, Row
from tasks.prove.programs import isolated
from tasks.shared.evaluation.problems import read_problems, sample_requests
from tasks.shared.evaluation.sampling import Sampler, take_all
from tasks.shared.generation.engines import make_generator
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.reporting.samples import Sample
from tasks.shared.tools.interpreter import open_tool

AGREE = 1e-3  # nats: how far log-probs of equal weights may lie apart on two machines


def sample_again(
    evidence: Evidence, checkpoint: Path, share: float, seed: int, tell: Callable[[str], None]
) -> list[Row]:
    """Rows on the checkpoint's files and on a share of the certificate's samples, drawn by chance from `seed`.

    ValueError for an evaluation that vLLM sampled: its batches round otherwise from run to run, so ids say nothing.
    """
    ref = evidence.certificate.evaluation
    config = config_of(evidence, ref)
    if config.generation.engine != "transformers":
        raise ValueError(
            f"--sample compares ids, and engine '{config.generation.engine}' does not give equal ids twice; "
            "leave --checkpoint out"
        )
    made = evidence.store.manifest(ref).provenance
    rows = [_same_checkpoint(evidence, checkpoint)]
    valid = [sample for sample in samples_of(evidence, ref, config) if not sample.outage]
    chosen = random.Random(seed).sample(valid, max(1, round(share * len(valid))))
    recorded = {sample.key: sample for sample in chosen}
    problems = read_problems(evidence.place(made.inputs["evaluation_sets"]))
    every = sample_requests(problems, config.evaluate.samples_per_problem, made.seed)
    wanted = [want for want in every if want.key in recorded]
    generation = config.generation.model_copy(update={"placement": "inside"})
    config = config.model_copy(update={"sandbox": isolated(config.sandbox), "generation": generation})
    tokenizer = load_tokenizer(checkpoint)
    drawn: dict[tuple[str, str, int], Sample] = {}

    def keep(sample: Sample) -> None:
        drawn[sample.key] = sample
        tell(f"{len(drawn)} of {len(wanted)} samples drawn again")

    generator = make_generator(config.generation, config.model, checkpoint, tokenizer)
    with open_tool(config.sandbox) as interpreter:
        take_all(Sampler(config, generator, interpreter, tokenizer), wanted, keep)
    differences = [
        difference
        for key, sample in recorded.items()
        if (difference := _difference(sample, drawn.get(key))) is not None
    ]
    note = f"{share:.3g} of {len(valid):,}, chosen with seed {seed}"
    return [*rows, Row("samples, drawn again", len(recorded), differences, note)]


def _same_checkpoint(evidence: Evidence, checkpoint: Path) -> Row:
    """Every file that the certificate's checkpoint had is in this one, byte for byte."""
    made = evidence.store.manifest(evidence.certificate.evaluation).provenance
    files = evidence.store.manifest(made.inputs["checkpoint"]).files
    differences = []
    for entry in files:
        path = checkpoint / entry.path
        if not path.is_file():
            differences.append(Difference(entry.path, MISSING, f"not in {checkpoint.name}"))
            continue
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                differences.append(Difference(entry.path, CHANGED, "not the certificate's"))
    return Row("checkpoint at hand", len(files), differences)


def _difference(recorded: Sample, here: Sample | None) -> Difference | None:
    """Where two samples part, and what their log-probs up to there say of the reason."""
    where = f"{recorded.set}/{recorded.problem_id}/{recorded.sample}"
    if here is None:
        return Difference(where, SANDBOX, "void each time")
    if list(recorded.response_ids) == list(here.response_ids):
        return None
    first = parting(recorded.response_ids, here.response_ids)
    apart = max(
        (abs(a - b) for a, b in zip(recorded.logprobs[:first], here.logprobs[:first], strict=True)),
        default=0.0,
    )
    kind = ROUNDING if first and apart <= AGREE else MODEL
    return Difference(where, kind, f"other ids from token {first} on; log-probs before it within {apart:.2g}")


def parting(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
