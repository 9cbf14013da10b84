"""Draw some samples again from their seeds with the checkpoint, and compare their ids.

Only this proves that the checkpoint wrote the samples. The reader chooses them at random, so nobody can prepare for it.
"""

import random
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from pathlib import Path

from tasks.prove.evaluation import config_of, samples_of
from tasks.prove.evidence import Evidence, has_digest
from tasks.prove.findings import CHANGED, MISSING, MODEL, ROUNDING, SANDBOX, Difference, Row
from tasks.prove.programs import isolated
from tasks.prove.replay import sample_name
from tasks.shared.artifacts.manifest import FileEntry
from tasks.shared.evaluation.problems import read_problems, sample_requests
from tasks.shared.evaluation.sampling import Sampler, take_all
from tasks.shared.generation.engines import make_generator
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.reporting.samples import Sample
from tasks.shared.tools.interpreter import open_tool

MAX_GAP = 1e-3  # nats between log-probs of equal weights on two machines


def sample_again(
    evidence: Evidence, checkpoint: Path, share: float, seed: int, tell: Callable[[str], None]
) -> list[Row]:
    """Return rows on the checkpoint's files and on a share of the samples, which `seed` selects.

    Raises ValueError for an evaluation by vLLM: its batches round differently in each run, so the ids prove nothing.
    """
    ref = evidence.certificate.evaluation
    config = config_of(evidence, ref)
    if config.generation.engine != "transformers":
        raise ValueError(
            f"--sample compares ids, and engine '{config.generation.engine}' does not give equal ids twice; "
            "leave --checkpoint out"
        )
    provenance = evidence.store.manifest(ref).provenance
    samples = samples_of(evidence, ref, config)
    valid = [sample for sample in samples if not sample.outage]
    chosen = random.Random(seed).sample(valid, min(len(valid), max(1, round(share * len(valid)))))
    recorded = {sample.key: sample for sample in chosen}
    problems = read_problems(evidence.place(provenance.inputs["evaluation_sets"]))
    all_requests = sample_requests(problems, config.evaluate.samples_per_problem, provenance.seed)
    requests = [request for request in islice(all_requests, len(samples)) if request.key in recorded]
    generation = config.generation.model_copy(update={"placement": "inside"})
    config = config.model_copy(update={"sandbox": isolated(config.sandbox), "generation": generation})
    tokenizer = load_tokenizer(checkpoint)
    drawn: dict[tuple[str, str, int], Sample] = {}

    def keep(sample: Sample) -> None:
        drawn[sample.key] = sample
        tell(f"{len(drawn)} of {len(requests)} samples drawn again")

    generator = make_generator(config.generation, config.model, checkpoint, tokenizer)
    with open_tool(config.sandbox) as tool:
        take_all(Sampler(config, generator, tool, tokenizer), requests, keep)
    differences = [
        difference
        for key, sample in recorded.items()
        if (difference := _difference(sample, drawn.get(key))) is not None
    ]
    note = f"{share:.3g} of {len(valid):,}, chosen with seed {seed}"
    files = evidence.store.manifest(provenance.inputs["checkpoint"]).files
    return [_compare_files(files, checkpoint), Row("samples, drawn again", len(recorded), differences, note)]


def _compare_files(files: Sequence[FileEntry], checkpoint: Path) -> Row:
    """Check that every file of the certificate's checkpoint is in this one, byte for byte."""
    differences = []
    for entry in files:
        path = checkpoint / entry.path
        if not path.is_file():
            differences.append(Difference(entry.path, MISSING, f"not in {checkpoint.name}"))
        elif not has_digest(path, entry.sha256):
            differences.append(Difference(entry.path, CHANGED, "not the certificate's"))
    return Row("checkpoint at hand", len(files), differences)


def _difference(recorded: Sample, redrawn: Sample | None) -> Difference | None:
    """Describe where two samples diverge. The log-probs before that point show the cause."""
    where = sample_name(recorded)
    if redrawn is None:
        return Difference(where, SANDBOX, "void each time")
    if list(recorded.response_ids) == list(redrawn.response_ids):
        return None
    ids = zip(recorded.response_ids, redrawn.response_ids, strict=False)
    first = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ids))
    pairs = zip(recorded.logprobs[:first], redrawn.logprobs[:first], strict=True)
    gap = max((abs(a - b) for a, b in pairs), default=0.0)
    kind = ROUNDING if first and gap <= MAX_GAP else MODEL
    return Difference(where, kind, f"other ids from token {first} on; log-probs before it within {gap:.2g}")
