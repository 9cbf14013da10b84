"""A small evaluation with live code and scripted samples, in a store with its lineage, and forgeries of it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import EvaluateStage, SandboxConfig
from tasks.shared.evaluation.problems import EvaluationProblem, read_problems, sample_requests
from tasks.shared.evaluation.sampling import Sampler
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.reporting.evaluated import protocol_of, write_evaluation
from tasks.shared.reporting.samples import Sample
from tasks.shared.reporting.summary import summarize
from tasks.shared.rows.tables import write_table
from tasks.shared.tools.interpreter import make_interpreter
from tests.artifacts import publish
from tests.integration.evaluation_world import evaluate_stage, fill_sets, tiny_checkpoint
from tests.unit.generation.scripted import ScriptedGenerator

SEED = 7
SUMS = [
    ("a", "What is 7 times 6?", "42"),
    ("b", "What is 9 times 9?", "81"),
    ("c", "What is 2 times 5?", "10"),
]
BLOCK = "<code>\n```python\n{}\n```\n</code>"
ANSWER = "<answer>\n\\boxed{{{}}}\n</answer>"
STEADY = {
    "a/0": BLOCK.format("print(7 * 6)") + ANSWER.format(42),
    "a/1": BLOCK.format("print(7 * n)") + BLOCK.format("print(7 * 6)") + ANSWER.format(42),
    "b/0": "We say it at once. " + ANSWER.format(80),
    "b/1": BLOCK.format("import random\nprint(random.random() > 2, 9 * 9)") + ANSWER.format(81),
    "c/0": BLOCK.format("print(2 * 5)").replace("```\n</code>", "</code>") + ANSWER.format(11),
    "c/1": "Ten.",
}


def certificate_stage() -> EvaluateStage:
    """Two samples a problem, room for two blocks."""
    config = evaluate_stage(samples_per_problem=2)
    longer = {"max_response_tokens": 600, "max_prompt_tokens": 200}
    sandbox = SandboxConfig(workers=1, preload=())
    generation = config.generation.model_copy(update=longer)
    return config.model_copy(update={"generation": generation, "sandbox": sandbox})


def publish_inputs(store: Store) -> dict[str, ArtifactRef]:
    """Publish a checkpoint with training problems as its input, and evaluation sets."""
    problem = "What is 3 plus 4 plus 5 plus 6?"
    rows = [{"id": "t/0", "problem": problem, "answer": "18", "source": "t", "family": ""}]
    schema = pa.schema([(name, pa.string()) for name in rows[0]])
    prepared = {"data": {"decontaminate_ngram": 5}}
    problems = publish(
        store, "problems", lambda path: write_table(path / "train.parquet", rows, schema), config=prepared
    )
    checkpoint = publish(store, "checkpoint", tiny_checkpoint(), {"problems": problems})
    sets = publish(store, "evaluation_sets", lambda path: fill_sets(path, {"sums": SUMS}))
    return {"checkpoint": checkpoint, "evaluation_sets": sets}


def take_samples(store: Store, inputs: dict[str, ArtifactRef], scripts: dict[str, str]) -> list[Sample]:
    """The samples of an evaluation whose model answers with `scripts`."""
    config = certificate_stage()
    tokenizer = load_tokenizer(store.fetch(inputs["checkpoint"]))
    problems: list[EvaluationProblem] = read_problems(store.fetch(inputs["evaluation_sets"]))
    requests = list(sample_requests(problems, config.evaluate.samples_per_problem, SEED))
    generator = ScriptedGenerator(tokenizer, {f"sums/{key}": script for key, script in scripts.items()})
    with make_interpreter(config.sandbox) as interpreter:
        sampler = Sampler(config, generator, interpreter, tokenizer)
        samples = {sample.key: sample for sample in sampler.take(requests)}
    return [samples[request.key] for request in requests]


def publish_evaluation(
    store: Store, inputs: dict[str, ArtifactRef], samples: Sequence[Sample], **evaluate: Any
) -> ArtifactRef:
    """Publish an evaluation of these samples, forged or not, with the summary that follows from them."""
    config = certificate_stage()
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=evaluate)})
    summary = {"sets": {"sums": summarize(samples)}, "protocol": protocol_of(config), "allow_unsafe": False}
    volatile = {"sampling_seconds": 1.0, "sampled_now": len(samples), "surroundings": {"python": "3.11"}}
    return publish(
        store,
        "evaluation",
        lambda path: write_evaluation(path, samples, summary, volatile),
        inputs,
        config=config.model_dump(mode="json"),
        seed=SEED,
    )


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON document in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
