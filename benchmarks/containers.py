"""What containers, deployments and object stores cost, against doing without, interleaved on this machine.

    make bench-containers            # or: python -m benchmarks.containers stage deployed skip upload

stage: the same stage in a container and as a process, wall time of `run_on_backend`. deployed: `prepare/local` on a
local server (SQLite) and worker, from its order to its end, over `run_on_backend`. skip: a pipeline whose stages are
all done. upload, download: a checkpoint to and from S3 (moto) by `Store` and by plain boto3. rebuild: `tirflow-train`
after a change of one source file. REPETITIONS and CHECKPOINT_MIB change how much is done.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.rounds import ratios, timed, turns
from flows.commands.follow import start_run
from flows.server import cluster
from tasks.launch.backends.attempt import run_on_backend
from tasks.launch.backends.backend import Backend
from tasks.launch.backends.docker import DockerBackend
from tasks.launch.backends.process import ProcessBackend
from tasks.launch.keys import derive_seed
from tasks.recipes import load_recipe
from tasks.shared.artifacts import ArtifactRef, Provenance, Store
from tasks.shared.contract.addresses import free_port
from tasks.shared.contract.stage import StageRequest, StageResult

ROOT = Path(__file__).resolve().parents[1]
REPETITIONS = int(os.environ.get("REPETITIONS", "3"))
CHECKPOINT_BYTES = int(os.environ.get("CHECKPOINT_MIB", "1024")) << 20
SMALL = {
    "data.train": [{"name": "tiny", "source": "tiny", "split": "train", "limit": 30}],
    "data.evaluation": [{"name": "held_out", "source": "tiny", "split": "held_out", "limit": 3}],
}
PIPELINE = SMALL | {
    "sft.max_steps": 2,
    "sft.tokens_per_step": 1024,
    "sft.tokens_per_micro_batch": 1024,
    "rl.rounds": 1,
    "rl.steps_per_round": 1,
    "rl.prompts_per_step": 2,
    "rl.samples_per_prompt": 2,
    "evaluate.samples_per_problem": 1,
    "generation.max_response_tokens": 32,
}


def measure_stage(home: Path) -> dict[str, Any]:
    """Seconds of `prepare` and `synthesize` under each backend: everything from request to result."""
    backends: dict[str, Backend] = {"docker": DockerBackend(), "process": ProcessBackend()}
    outputs: dict[str, dict[str, ArtifactRef]] = {name: {} for name in backends}
    figures: dict[str, Any] = {}
    for stage in ("prepare", "synthesize"):
        seconds: dict[str, list[float]] = {name: [] for name in backends}
        for repetition in range(REPETITIONS):
            for name, backend in backends.items():
                request = _request(home, name, stage, repetition, outputs[name])
                taken, result = _run_by(home, request, backend)
                seconds[name].append(taken)
                outputs[name] |= result.outputs
        extra_s = _median_difference(seconds["docker"], seconds["process"])
        figures[stage] = {**seconds, "container_over_process_s": extra_s}
    return figures


def _request(
    home: Path, store: str, stage: str, number: int, published: dict[str, ArtifactRef]
) -> StageRequest:
    """A small stage in a scratch directory of its own; its inputs are among `published`."""
    names = ("problems", "evaluation_sets") if stage == "synthesize" else ()
    return StageRequest(
        stage=stage,
        run="bench",
        config=load_recipe("tiny", SMALL).for_stage(stage).model_dump(mode="json"),
        inputs={name: published[name] for name in names},
        seed=derive_seed(0, stage),
        store=str(home / store),
        scratch=str(home / "scratch" / f"{store}-{stage}-{number}"),
    )


def _run_by(home: Path, request: StageRequest, backend: Backend) -> tuple[float, StageResult]:
    return timed(lambda: run_on_backend(request, backend, home / "log", lambda _: None))


def _median_difference(seconds: list[float], base: list[float]) -> float:
    return round(statistics.median(a - b for a, b in zip(seconds, base, strict=True)), 2)


def measure_deployed(home: Path) -> dict[str, Any]:
    """Seconds of `prepare/local`, run anew, from its order to its end, and of the same by `run_on_backend` alone."""
    alone, deployed = [], []
    parameters = {"recipe": "tiny", "run": "bench", "overrides": SMALL, "force": True}
    with _server(home) as api:
        for repetition in range(REPETITIONS):
            request = _request(home, "alone", "prepare", repetition, {})
            alone.append(_run_by(home, request, ProcessBackend())[0])
            deployed.append(timed(lambda: _run(api, "prepare/local", parameters))[0])
    extra_s = _median_difference(deployed, alone)
    return {"deployed": deployed, "alone": alone, "deployed_over_alone_s": extra_s}


def measure_skip(home: Path) -> dict[str, Any]:
    """Seconds of a run of `train/tiny` in which every stage is done: of the flow itself, and from its order."""
    parameters = {"run": "bench", "overrides": PIPELINE}
    with _server(home) as api:
        _, num_stages = _run(api, "train/tiny", parameters)
        runs = [timed(lambda: _run(api, "train/tiny", parameters)) for _ in range(REPETITIONS)]
    flow_s = [seconds for _, (seconds, _) in runs]
    return {
        "stages": num_stages,
        "flow": flow_s,
        "from_order": [seconds for seconds, _ in runs],
        "flow_per_stage_s": round(statistics.median(flow_s) / num_stages, 2),
    }


@contextmanager
def _server(home: Path) -> Iterator[str]:
    """The API's address of a server on SQLite and a worker, as `tirflow up` starts them."""
    started = cluster.start(home, owned=True)
    try:
        yield started.api_url
    finally:
        cluster.stop(started)


def _run(api: str, deployment: str, parameters: dict[str, Any]) -> tuple[float, int]:
    """Run a deployment to its end: the seconds of the flow itself, and how many tasks it had."""
    flow_run = start_run(api, deployment, parameters)
    while (row := httpx.get(f"{api}/flow_runs/{flow_run}", timeout=90).json())["state_type"] != "COMPLETED":
        assert row["state_type"] not in ("FAILED", "CRASHED", "CANCELLED"), row["state"]["message"]
        time.sleep(0.1)
    of_flow = {"flow_runs": {"id": {"any_": [str(flow_run)]}}}
    tasks = httpx.post(f"{api}/task_runs/filter", json=of_flow, timeout=90).json()
    return float(row["total_run_time"]), len(tasks)


def measure_upload(home: Path) -> dict[str, Any]:
    """MB/s of one large file to S3, ours over boto3's; each of both goes first in turn."""
    with _s3(home) as (client, large):

        def ours(repetition: int) -> float:
            store = Store("s3://bench/ours", cache=home / "cache")
            with store.staging("checkpoint") as directory:
                os.link(large, directory / "model.safetensors")  # the disk would write a copy meanwhile
                provenance = Provenance("bench", {}, repetition, {})
                seconds, ref = timed(lambda: store.publish("checkpoint", directory, provenance))
            store.remove(ref.location)
            return seconds

        def theirs(_: int) -> float:
            return timed(lambda: client.upload_file(str(large), "bench", "theirs"))[0]

        return _compared(ours, theirs)


def measure_download(home: Path) -> dict[str, Any]:
    """MB/s of one large file from S3, ours over boto3's."""
    with _s3(home) as (client, large):
        store = Store("s3://bench/ours", cache=home / "cache")
        with store.staging("checkpoint") as directory:
            shutil.copyfile(large, directory / "model.safetensors")
            ref = store.publish("checkpoint", directory, Provenance("bench", {}, 0, {}))
        client.upload_file(str(large), "bench", "theirs")

        def ours(repetition: int) -> float:
            cache = home / f"reader{repetition}"
            seconds, _ = timed(lambda: Store("s3://bench/ours", cache=cache).fetch(ref))
            shutil.rmtree(cache)
            return seconds

        def theirs(_: int) -> float:
            return timed(lambda: client.download_file("bench", "theirs", str(home / "theirs")))[0]

        return _compared(ours, theirs)


@contextmanager
def _s3(home: Path) -> Iterator[tuple[Any, Path]]:
    """boto3's client of an S3 server (moto) with a bucket, and a large file."""
    import boto3
    from botocore.config import Config

    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    client = boto3.client("s3", config=Config(retries={"max_attempts": 30}, connect_timeout=60))
    try:
        client.create_bucket(Bucket="bench")
        large = home / "large"
        large.write_bytes(os.urandom(CHECKPOINT_BYTES))
        yield client, large
    finally:
        server.kill()
        server.wait()


def _compared(ours: Callable[[int], float], theirs: Callable[[int], float]) -> dict[str, Any]:
    """MB/s of both over all repetitions, and the median of their ratios."""
    seconds: dict[str, list[float]] = {"ours": [], "boto3": []}
    for repetition, name in turns(("ours", "boto3"), REPETITIONS):
        seconds[name].append((ours if name == "ours" else theirs)(repetition))
    rates = {name: [round(CHECKPOINT_BYTES / 1e6 / one, 1) for one in each] for name, each in seconds.items()}
    ratio = statistics.median(ratios(seconds["boto3"], seconds["ours"]))
    return {"megabytes_per_s": rates, "ratio": round(ratio, 2)}


def measure_rebuild(home: Path) -> dict[str, Any]:
    """Seconds of `images/build.py train` after a line was added to one source file, in a copy of the tree."""
    copy = home / "tree"
    for name in ("tasks", "data", "images", ".git"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    seconds = []
    for repetition in range(REPETITIONS):
        with (copy / "tasks" / "sft" / "steps.py").open("a") as source:
            source.write(f"# change {repetition}\n")
        seconds.append(timed(lambda: _build_train(copy))[0])
    _build_train(ROOT)  # the copy's image has replaced this tree's
    return {"seconds": seconds}


def _build_train(tree: Path) -> None:
    command = [sys.executable, str(tree / "images" / "build.py"), "train", "--base-image", "tirflow-base"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run(command, env=environment, check=True, capture_output=True)


MEASURES = {
    "stage": measure_stage,
    "deployed": measure_deployed,
    "skip": measure_skip,
    "upload": measure_upload,
    "download": measure_download,
    "rebuild": measure_rebuild,
}


def main(names: list[str]) -> int:
    """Measure what is named, or all; one JSON object."""
    figures = {}
    for name in names or MEASURES:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            home = Path(directory)
            home.chmod(0o755)
            os.environ["TIRFLOW_HOME"] = directory
            figures[name] = MEASURES[name](home)
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
