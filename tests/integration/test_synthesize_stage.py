"""prepare and synthesize as the launcher runs them: their own processes, the real sandbox, artifacts on disk."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from tasks.prepare.config import DataConfig, ProblemSource
from tasks.prepare.spec import PrepareStage
from tasks.shared.artifacts import Store
from tasks.shared.config import ModelConfig, SandboxConfig, TinyModel, TracesConfig
from tasks.shared.contract.stage import StageResult
from tasks.shared.sandbox import Interpreter, SandboxSettings
from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.selection.config import SelectionConfig
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.teachers.script import ScriptTeacher
from tasks.synthesize.traces import Fault, TrainingProblem
from tasks.synthesize.verify import Rules, verify
from tests.integration.stages import run_stage, run_to_end, stage_request

NUM_PROBLEMS = 120
# the scripted teacher's templates are near-duplicates, and some reason without code
ALL_KEPT = SelectionConfig(require_code=False, min_code_work=0, max_similarity=1.0)
SANDBOX = SandboxConfig(workers=2, wall_s=5.0, cpu_s=5.0, memory_mb=512)
FAULTS = dict.fromkeys(
    (
        "wrong_program_rate",
        "syntax_error_rate",
        "fabricated_output_rate",
        "wrong_answer_rate",
        "broken_tags_rate",
    ),
    0.1,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult]:
    directory = tmp_path_factory.mktemp("world")
    tiny = TinyModel(
        hidden_size=32, layers=1, heads=2, key_value_heads=1, intermediate_size=32, vocabulary=300
    )
    config = PrepareStage(
        model=ModelConfig(source="tiny", dtype="float32", tiny=tiny),
        data=DataConfig(
            train=(ProblemSource(name="tiny", source="tiny", limit=NUM_PROBLEMS),),
            evaluation=(ProblemSource(name="held_out", source="tiny", split="held_out", limit=20),),
        ),
    )
    return directory, run_stage(directory, "prepare", config, {})


def synthesize(world: tuple[Path, StageResult], name: str, **settings: Any) -> tuple[Path, StageResult]:
    directory, prepared = world
    config = SynthesizeStage(
        traces=TracesConfig(prompt="bare", max_calls=3, error_feedback="last_line"),
        sandbox=SANDBOX,
        synthesize=SynthesizeConfig(selection=ALL_KEPT, **settings),
    )
    inputs = {key: prepared.outputs[key] for key in ("problems", "evaluation_sets")}
    result = run_stage(directory / name, "synthesize", config, inputs)
    return Store(str(directory / name / "store")).fetch(result.outputs["traces"]), result


@pytest.fixture(scope="module")
def shared_store(world: tuple[Path, StageResult]) -> tuple[Path, StageResult]:
    """The store of `prepare`, which both syntheses below read."""
    directory, _ = world
    for name in ("first", "again"):
        (directory / name).mkdir()
        (directory / name / "store").symlink_to(directory / "store")
    return world


def test_traces_are_published_verified_and_the_same_each_time(shared_store):
    traces, result = synthesize(shared_store, "first", code_share=0.6, **FAULTS)
    accepted = pandas.read_parquet(traces / "train.parquet")
    rejected = pandas.read_parquet(traces / "rejected.parquet")
    funnel = json.loads((traces / "funnel.json").read_text())
    assert (accepted["reason"] == "").all()
    assert (accepted["fault"] == "").all(), "every bad trace is out"
    assert (rejected["reason"] != "").all()
    assert (rejected["detail"] != "").all()
    assert (rejected["fault"] != "").all(), "every good trace is kept"
    assert (
        len(accepted) + len(rejected) == funnel["written"] == result.metrics["written"] > 0.9 * NUM_PROBLEMS
    )
    assert funnel["rejected"] == dict(Counter(rejected["reason"]))
    assert accepted.iloc[0]["messages"][1]["content"] == accepted.iloc[0]["trace"]
    opened = datasets.load_dataset(str(traces), split="train", cache_dir=str(shared_store[0] / "cache"))
    assert opened["trace"] == list(accepted["trace"])
    _, again = synthesize(shared_store, "again", code_share=0.6, **FAULTS)
    assert again.outputs["traces"].digest == result.outputs["traces"].digest


@pytest.mark.parametrize(("dialect", "stateful"), [("retool", False), ("torl", True)])
def test_the_real_sandbox_separates_bad_from_good_traces(shared_store, dialect, stateful):
    directory, prepared = shared_store
    rows = pandas.read_parquet(
        Store(str(directory / "store")).fetch(prepared.outputs["problems"]) / "train.parquet"
    )
    problems = [TrainingProblem(**row) for row in rows.to_dict("records")]
    rules = Rules(DIALECTS[dialect], 3, "full", announce_remaining_calls=stateful, stateful=stateful)
    config = SynthesizeConfig(code_share=0.7, correction_share=0.3, check_share=0.2, **FAULTS)
    kinds: Counter[Fault] = Counter()
    with Interpreter(SandboxSettings()) as interpreter:
        teacher = ScriptTeacher(config, rules, interpreter, seed=1)
        for index in range(2):
            for problem in problems:
                written = teacher.write_trace(problem, index)
                verdict = verify(written, rules, interpreter)
                kinds[written.fault] += 1
                assert verdict.accepted == (written.fault is Fault.NONE), (written, verdict)
    assert sum(kinds.values()) >= 200
    assert min(kinds[fault] for fault in Fault) >= 5, kinds


def test_synthesis_runs_without_torch_and_without_prefect():
    program = "import sys, tasks.synthesize.main, tasks.prepare.main; print({'torch', 'prefect'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_evaluation_problem_among_the_training_problems_is_refused(shared_store, tmp_path):
    directory, prepared = shared_store
    store = Store(str(directory / "store"))
    held_out = pandas.read_parquet(store.fetch(prepared.outputs["evaluation_sets"]) / "held_out.parquet")
    with store.staging("problems") as staged:
        held_out.to_parquet(staged / "train.parquet")
        provenance = store.manifest(prepared.outputs["problems"]).provenance
        leaked = store.publish("problems", staged, provenance)
    config = SynthesizeStage(traces=TracesConfig(), sandbox=SANDBOX, synthesize=SynthesizeConfig())
    inputs = {"problems": leaked, "evaluation_sets": prepared.outputs["evaluation_sets"]}
    request = stage_request(directory, "synthesize", config, inputs, scratch=str(tmp_path))
    events = run_to_end(tmp_path, request, status=2)
    assert (
        "is also in an evaluation set; take problems and evaluation_sets from one run"
        in events[-1]["message"]
    )
