"""Bootstrap in small: SFT on a model's own verified traces raises its accuracy on held-out problems in pairs.

The model is taught in seconds to run code, which is right, or to guess, which is wrong, half of the time each.
"""

import pandas
import pytest

from tasks.shared.artifacts import Store
from tasks.shared.estimates.accuracy import Outcome
from tasks.shared.estimates.comparison import compare
from tests.artifacts import publish
from tests.integration.evaluation_world import fill_sets
from tests.integration.rl_world import MODEL, NUM_PROBLEMS, make_store
from tests.integration.stages import run_stage

SAMPLES = 8
TRACES = {"prompt": "bare", "max_calls": 2}
SANDBOX = {"workers": 1, "memory_mb": 512, "preload": ("math",)}
ENGINE = {"engine": "transformers", "max_sequences": 64, "max_prompt_tokens": 64, "max_response_tokens": 96}
SAMPLING = {"model": MODEL.model_dump(), "traces": TRACES, "sandbox": SANDBOX, "generation": ENGINE}
BOOTSTRAP = {
    "mode": "bootstrap",
    "traces_per_problem": SAMPLES,
    "teacher": {"backend": "engine", "temperature": 1.0, "max_response_tokens": 96},
    "selection": {"min_code_work": 0, "max_similarity": 1.0, "decontaminate_ngram": 0},
}
TUNING = {
    "model": MODEL.model_dump(),
    "traces": TRACES,
    "sft": {
        "max_steps": 12,
        "tokens_per_step": 2048,
        "tokens_per_micro_batch": 2048,
        "optimizer": {"learning_rate": 1e-3, "zero_stage": 0},
    },
}


@pytest.mark.timeout(600)
def test_own_traces_raise_the_model_on_problems_held_out(tmp_path):
    inputs = make_store(tmp_path)
    store = Store(str(tmp_path / "store"))
    held_out = [(f"held/{n}", f"What is {n}?", "1") for n in range(20, 50)]
    inputs["evaluation_sets"] = publish(
        store, "evaluation_sets", lambda path: fill_sets(path, {"own": held_out})
    )

    result = run_stage(tmp_path, "synthesize", SAMPLING | {"synthesize": BOOTSTRAP}, inputs)
    assert result.metrics["written"] == result.metrics["teacher_asked"] == NUM_PROBLEMS * SAMPLES
    again = run_stage(tmp_path, "synthesize", SAMPLING | {"synthesize": BOOTSTRAP}, inputs)
    assert again.metrics["teacher_asked"] == 0, "finished samples are in the log"
    assert again.outputs["traces"].digest == result.outputs["traces"].digest
    rejected = pandas.read_parquet(store.fetch(result.outputs["traces"]) / "rejected.parquet")
    assert set(rejected["reason"]) >= {"wrong_answer"}

    tuned = run_stage(
        tmp_path, "sft", TUNING, {"checkpoint": inputs["checkpoint"], "traces": result.outputs["traces"]}
    )
    outcomes = []
    for checkpoint in (inputs["checkpoint"], tuned.outputs["checkpoint"]):
        config = SAMPLING | {"evaluate": {"samples_per_problem": 4, "top_p": 1.0}}
        given = {"checkpoint": checkpoint, "evaluation_sets": inputs["evaluation_sets"]}
        evaluated = run_stage(tmp_path, "evaluate", config, given)
        (tmp_path / "evaluate").rename(tmp_path / f"evaluated-{len(outcomes)}")
        samples = pandas.read_parquet(store.fetch(evaluated.outputs["evaluation"]) / "samples.parquet")
        by_problem = samples.groupby("problem_id")["correct"]
        outcomes.append(
            {name: [Outcome(bool(correct), None) for correct in group] for name, group in by_problem}
        )
    gain = compare(*outcomes).difference
    assert gain.interval.low > 0.1, gain
