"""A checkpoint evaluated by the stage, inside and on a pool, and by hand through `vllm serve`: the same samples.

By hand means without tirflow: HTTP, a regular expression, `python -c`.
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import EvaluateStage
from tasks.shared.contract.stage import StageResult
from tasks.shared.evaluation.problems import EvaluationProblem, read_problems, sample_requests
from tasks.shared.reporting.samples import Sample, read_samples
from tests.artifacts import publish
from tests.integration.evaluation_world import fill_sets
from tests.integration.rl_world import MODEL, make_store
from tests.integration.stages import stage_request
from tests.vllm.serving import serve

BUDGET, CALLS, SAMPLES, SEED = 96, 2, 6, 7
CODE = re.compile(r"<code>\n```python\n(.*?)\n```\n</code>$", re.DOTALL)
BOX = re.compile(r"\\boxed\{([^{}]*)\}")


@pytest.mark.long
def test_the_stage_and_a_served_model_grade_alike(tmp_path: Path) -> None:
    """The model, taught in seconds, writes code for half of its answers and guesses the others."""
    inputs = {"checkpoint": make_store(tmp_path, hidden=128)["checkpoint"]}
    store = Store(str(tmp_path / "store"))
    rows = [(f"p{n}", f"What is {n}?", "1" if n % 3 else "2") for n in range(6)]
    inputs["evaluation_sets"] = publish(store, "evaluation_sets", lambda path: fill_sets(path, {"own": rows}))
    evaluated = {(s.problem_id, s.sample): s for s in _evaluate(tmp_path, inputs)}
    in_pool = {(s.problem_id, s.sample): s.text for s in _evaluate(tmp_path, inputs, servers=2)}
    assert in_pool == {key: sample.text for key, sample in evaluated.items()}
    checkpoint = store.fetch(inputs["checkpoint"])
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    problems = read_problems(store.fetch(inputs["evaluation_sets"]))
    with serve(checkpoint, tmp_path / "server.log") as address, ThreadPoolExecutor(8) as pool:
        expected = list(sample_requests(problems, SAMPLES, SEED))
        by_hand = list(pool.map(lambda w: _answer(address, tokenizer, w.problem, w.seed), expected))
    for want, (text, answer) in zip(expected, by_hand, strict=True):
        sample = evaluated[want.problem.id, want.sample]
        assert (sample.text, sample.predicted) == (text, answer)
        assert sample.correct == (answer == want.problem.answer)
    assert {sample.reason for sample in evaluated.values()} >= {"correct", "wrong"}
    assert any(sample.calls for sample in evaluated.values())


def _evaluate(root: Path, inputs: dict[str, ArtifactRef], servers: int = 0) -> list[Sample]:
    """The samples of stage `evaluate`, run as the launcher runs it: inside, or on a pool."""
    pool = {"placement": "pool", "pool": {"servers": servers}} if servers else {}
    config = EvaluateStage.model_validate(
        {
            "model": MODEL,
            "traces": {"prompt": "bare", "max_calls": CALLS},
            "sandbox": {"workers": 1, "memory_mb": 512, "preload": ["math"]},
            "generation": {
                "engine": "vllm",
                "max_sequences": 32,
                "max_prompt_tokens": 64,
                "max_response_tokens": BUDGET,
                "gpu_memory_utilization": 0.1,
                **pool,
            },
            "evaluate": {"samples_per_problem": SAMPLES, "temperature": 1.0, "top_p": 0.95},
        }
    )
    request = stage_request(root, "evaluate", config, inputs, seed=SEED, scratch=f"scratch-{servers}")
    path = root / "request.json"
    path.write_text(request.model_dump_json())
    with (root / "evaluate.log").open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "tasks.evaluate.main", str(path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            check=True,
        )
    result = StageResult.model_validate_json((root / "result.json").read_text())
    return read_samples(Store(request.store).fetch(result.outputs["evaluation"]))


def _answer(
    address: str, tokenizer: PreTrainedTokenizerBase, problem: EvaluationProblem, seed: int
) -> tuple[str, str | None]:
    """The response's text, and what stands in the last box after the last output."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem.problem}], tokenize=False, add_generation_prompt=True
    )
    prompt_ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
    ids: list[int] = []
    for turn in range(CALLS + 1):
        piece = _complete(
            address, prompt_ids + ids, BUDGET - len(ids), (seed + 0x9E3779B9 * turn) % 2**31, turn
        )
        ids += piece["token_ids"]
        last = tokenizer.decode(piece["token_ids"])
        code = CODE.search(last)
        if code is None or turn == CALLS:
            break
        output = subprocess.run([sys.executable, "-c", code[1]], capture_output=True, text=True).stdout
        ids += tokenizer.encode(
            f"\n<interpreter>\n{output.rstrip()}\n</interpreter>\n", add_special_tokens=False
        )
    boxes = BOX.findall(last)
    ended = ids[-1] == tokenizer.eos_token_id
    return tokenizer.decode(ids[:-1] if ended else ids), boxes[-1] if boxes else None


def _complete(address: str, ids: list[int], most: int, seed: int, turn: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": ids,
        "max_tokens": most,
        "temperature": 1.0,
        "top_p": 0.95,
        "seed": seed,
    }
    body |= {"return_token_ids": True, "skip_special_tokens": False, "include_stop_str_in_output": True}
    if turn < CALLS:
        body["stop"] = ["</code>"]
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return dict(json.load(reply)["choices"][0])
    except urllib.error.HTTPError as error:
        pytest.fail(error.read().decode())
