"""A real server of vLLM's CPU build as teacher through the client: live and bootstrap, with executed code.

Runs in the environment of `make setup-vllm`; `make test-vllm` is the command. The model is taught in seconds to answer
half of the time with a block of code and half with a wrong guess, so verification has something to choose.
"""

from pathlib import Path
from typing import Literal

import pandas
import pytest

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import GenerationConfig
from tasks.shared.contract.stage import StageRequest, StageResult
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.spec import SynthesizeStage
from tests.integration.rl_world import MODEL, NUM_PROBLEMS, make_store
from tests.integration.stages import in_process
from tests.integration.synthesis_world import make_request
from tests.vllm.serving import serve

SAMPLES = 6
SELECTION = {"min_code_work": 0, "max_similarity": 1.0, "decontaminate_ngram": 0}
pytestmark = pytest.mark.timeout(600)  # a server's start is slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ArtifactRef]]:
    root = tmp_path_factory.mktemp("taught")
    return root, make_store(root, hidden=128)


def ask(
    root: Path,
    inputs: dict[str, ArtifactRef],
    scratch: str,
    base_url: str = "",
    placement: Literal["inside", "pool"] = "inside",
    **settings: object,
) -> StageRequest:
    """Six samples a problem; a served model if there is an address, else an engine in this process or a pool."""
    teacher: dict[str, object] = {"temperature": 1.0, "max_response_tokens": 96}
    if base_url:
        teacher |= {
            "base_url": base_url,
            "model": "served",
            "continuation": "prefill",
            "samples_per_request": 3,
        }
    else:
        teacher |= {"backend": "engine"}
    request = make_request(root, ["any"], base_url or "http://127.0.0.1:9/v1", scratch=scratch)
    own = SynthesizeConfig(traces_per_problem=SAMPLES, selection=SELECTION, teacher=teacher, **settings)
    config = SynthesizeStage.model_validate(request.config).model_copy(update={"synthesize": own})
    if not base_url:
        engine = GenerationConfig(
            engine="vllm",
            placement=placement,
            max_sequences=32,
            max_prompt_tokens=64,
            max_response_tokens=96,
            gpu_memory_utilization=0.1,
        )
        config = config.model_copy(update={"generation": engine, "model": MODEL})
    return request.model_copy(
        update={"config": config.model_dump(mode="json"), "inputs": request.inputs | inputs}
    )


def check(request: StageRequest, result: StageResult) -> None:
    """Right traces ran code and show its output. Guesses are rejected, each for its reason."""
    store = Store(request.store)
    traces = store.fetch(result.outputs["traces"])
    accepted = pandas.read_parquet(traces / "train.parquet")
    rejected = pandas.read_parquet(traces / "rejected.parquet")
    assert result.metrics["written"] == NUM_PROBLEMS * SAMPLES == len(accepted) + len(rejected)
    assert len(accepted) > NUM_PROBLEMS
    assert set(accepted["num_calls"]) <= {1, 2, 3}
    assert all("<interpreter>\n1\n</interpreter>" in trace for trace in accepted["trace"])
    assert set(rejected["reason"]) >= {"wrong_answer"}
    assert "output_differs" not in set(rejected["reason"]), "outputs come from the interpreter alone"
    assert result.metrics["teacher_completion_tokens"] > 0
    usage = pandas.read_parquet(store.fetch(result.outputs["responses"]) / "usage.parquet")
    assert len(usage) == NUM_PROBLEMS


def test_a_served_model_as_teacher_live_and_bootstrap(world, tmp_path):
    root, inputs = world
    checkpoint = Store(str(root / "store")).fetch(inputs["checkpoint"])
    own = tmp_path / "own.j2"
    own.write_text("{{ problem }}")  # the model was taught without instructions
    with serve(checkpoint, tmp_path / "server.log") as address:
        request = ask(root, inputs, "live", f"{address}/v1", mode="live", prompt=str(own))
        check(request, in_process(request))
        request = ask(root, inputs, "served", f"{address}/v1", mode="bootstrap")
        check(request, in_process(request))


@pytest.mark.parametrize(
    "placement",
    ["inside", pytest.param("pool", marks=pytest.mark.long)],  # test_pool.py has what a pool samples
)
def test_bootstrap_with_vllms_engine(world, placement):
    root, inputs = world
    request = ask(root, inputs, f"engine-{placement}", placement=placement, mode="bootstrap")
    result = in_process(request)
    check(request, result)
    again = in_process(request)
    assert again.metrics["teacher_asked"] == 0, "finished samples are in the log"
    assert again.outputs["traces"].digest == result.outputs["traces"].digest
