"""The evaluate stage as the launcher starts it: resumed after SIGKILL, equal samples from an equal seed."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate.journal import Journal
from tasks.evaluate.spec import EVALUATE
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import open_context
from tasks.shared.evaluation.problems import EvaluationProblem, sample_requests
from tasks.shared.evaluation.sampling import Sampler
from tasks.shared.reporting.evaluated import read_evaluated
from tasks.shared.reporting.samples import read_samples
from tasks.shared.tools.interpreter import make_interpreter
from tests.integration.evaluation_world import SAMPLES, SETS, evaluate_request, evaluate_stage
from tests.integration.processes import StageProcess
from tests.integration.stages import as_process, context_of, in_process, result_of, run_to_end
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.generation.tiny import tiny_tokenizer
from tests.unit.reporting.making import make_sample
from tests.waiting import until

TOTAL = sum(SETS.values()) * SAMPLES


def test_killed_and_resumed_is_the_same_evaluation(tmp_path: Path) -> None:
    """SIGKILL during a run: the next run takes only missing samples, and nearly all are those of an undisturbed run.

    Batches of other shapes move log-probs by 1e-7. A draw that close to the border of two tokens gives the other one:
    about one of this flat model's 10,000.
    """
    whole = evaluate_request(tmp_path, "whole")
    events = run_to_end(Path(whole.scratch), whole)
    result = result_of(Path(whole.scratch))
    store = Store(whole.store)
    first = read_evaluated(store, result.outputs["evaluation"])
    assert first.volatile["sampled_now"] == TOTAL

    killed = evaluate_request(tmp_path, "killed")
    process = StageProcess(Path(killed.scratch), killed)
    shards = Path(killed.scratch) / "samples"
    until(lambda: list(shards.glob("shard-??????")) or process.poll() is not None, every_s=0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    taken = sum(len(read_samples(path)) for path in shards.glob("shard-??????"))
    assert 0 < taken < TOTAL
    resumed = as_process(killed)
    again = read_evaluated(store, resumed.outputs["evaluation"])
    assert again.volatile["sampled_now"] == TOTAL - taken
    one, other = (read_samples(store.fetch(made.outputs["evaluation"])) for made in (result, resumed))
    assert sum(a.response_ids == b.response_ids for a, b in zip(one, other, strict=True)) >= TOTAL - 3
    assert again.volatile["surroundings"]["taken_before"] == str(taken)
    assert [event["event"] for event in events][-1] == "result"


def test_the_artifact_holds_every_sample_and_its_summary(tmp_path: Path) -> None:
    """Rows in the order of the sets, readable by `datasets`, headline numbers with intervals; equal when made again."""
    from datasets import load_dataset

    request = evaluate_request(tmp_path, samples_per_problem=2)
    result = as_process(request)
    second = evaluate_request(tmp_path, "second", samples_per_problem=2)
    assert as_process(second).outputs == result.outputs  # equal digests despite other seconds
    directory = Store(request.store).fetch(result.outputs["evaluation"])
    samples = read_samples(directory)
    assert [sample.set for sample in samples] == ["held_out"] * 12 + ["other"] * 6
    for sample in samples:
        length = sample.num_tokens
        assert len(sample.logprobs) == len(sample.sampled) == len(sample.token_ends) == length <= 96
        assert list(sample.token_ends) == sorted(sample.token_ends) and sample.token_ends[-1] == len(
            sample.text
        )
    assert len(load_dataset(str(directory), split="train")) == 18
    assert result.metrics["held_out/problems"] == 6 and result.metrics["held_out/samples"] == 12
    assert (
        result.metrics["held_out/low"]
        <= result.metrics["held_out/accuracy"]
        <= result.metrics["held_out/high"]
    )


def test_code_runs_and_is_graded(tmp_path: Path) -> None:
    """A scripted model (a fake engine) with the real sandbox: error, correction and right answer are recorded."""
    tokenizer = tiny_tokenizer()
    block = "Let us compute.\n<code>\n```python\nprint({})\n```\n</code>"
    script = f"{block.format('7 * n')}{block.format('7 * 6')}<answer>\n\\boxed{{42}}\n</answer>"
    config = evaluate_stage(samples_per_problem=1)
    problem = EvaluationProblem("held_out", "p", "What is 7 times 6?", "42")
    longer = {"max_response_tokens": 600, "max_prompt_tokens": 200}
    config = config.model_copy(update={"generation": config.generation.model_copy(update=longer)})
    generator = ScriptedGenerator(tokenizer, {"held_out/p/0": script})
    with make_interpreter(config.sandbox) as interpreter:
        sampler = Sampler(config, generator, interpreter, tokenizer)
        (sample,) = sampler.take(list(sample_requests([problem], 1, 0)))
    assert sample.correct and sample.predicted == "42" and not sample.outage
    assert [call.status for call in sample.calls] == ["error", "ok"]
    assert sample.calls[1].observation == "42" and "NameError" in sample.calls[0].observation
    for call in sample.calls:
        start_char, end_char = sample.token_ends[call.turn_end - 1], sample.token_ends[call.feedback_end - 1]
        assert sample.text[:start_char].endswith("</code>")
        assert sample.text[start_char:end_char] == f"\n<interpreter>\n{call.observation}\n</interpreter>\n"
        assert not any(sample.sampled[call.turn_end : call.feedback_end])


def test_greedy_with_several_samples_is_refused(tmp_path: Path) -> None:
    """One sample would count many times. One line says what to set."""
    request = evaluate_request(tmp_path)
    request.config["evaluate"]["temperature"] = 0.0
    with pytest.raises(ValueError, match=r"set evaluate\.samples_per_problem = 1"):
        in_process(request)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 8}, "seed: 7 -> 8"),
        ({"config": evaluate_stage(temperature=0.5).model_dump(mode="json")}, "config.evaluate.temperature"),
        ({"inputs": {}}, "inputs.checkpoint"),
    ],
)
def test_samples_of_another_request_are_never_published(
    tmp_path: Path, changed: dict[str, Any], difference: str
) -> None:
    """A used scratch directory is refused before a model is loaded; the same request continues."""
    request = evaluate_request(tmp_path)
    samples = Path(request.scratch) / "samples"
    journal = Journal(samples, open_context(EVALUATE, request).fingerprint())
    journal.append(make_sample([]))
    journal.flush()
    inputs = request.inputs | {"checkpoint": ArtifactRef("checkpoint", "0" * 64, "checkpoint/0")}
    other = request.model_copy(update=changed | ({"inputs": inputs} if "inputs" in changed else {}))
    with pytest.raises(ValueError, match=f"samples of another request \\({difference}.*use another scratch"):
        in_process(other)
    assert len(Journal(samples, context_of(request).fingerprint())) == 1
