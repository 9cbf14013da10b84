"""What containers and object stores cost, against doing without, interleaved on this machine.

    make bench-containers            # or: python -m benchmarks.containers stage store rebuild

stage: the same stage in a container and as a process, wall time of `execute`. store: a checkpoint to and from S3 (moto)
through `Store` and through plain boto3. rebuild: `tirflow-train` after a change of one source file.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.launch.keys import derive_seed
from tasks.shared.artifacts import Provenance, Store
from tasks.shared.execution.backend import Backend
from tasks.shared.execution.docker import DockerBackend
from tasks.shared.execution.execute import execute
from tasks.shared.execution.process import ProcessBackend
from tasks.shared.recipes import load_recipe
from tasks.shared.stage import StageRequest

ROOT = Path(__file__).resolve().parents[1]
REPETITIONS = int(os.environ.get("REPETITIONS", "3"))
CHECKPOINT_BYTES = int(os.environ.get("CHECKPOINT_MIB", "1024")) << 20
SMALL = {
    "data.train": [{"name": "tiny", "source": "tiny", "split": "train", "limit": 30}],
    "data.evaluation": [{"name": "held_out", "source": "tiny", "split": "held_out", "limit": 3}],
}


def measure_stage(home: Path) -> dict[str, Any]:
    """Seconds of `prepare` under each backend: everything from request to result."""
    config = load_recipe("tiny", SMALL).for_stage("prepare").model_dump(mode="json")
    backends: dict[str, Backend] = {"docker": DockerBackend(), "process": ProcessBackend()}
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    for repetition in range(REPETITIONS):
        for name, backend in backends.items():
            request = StageRequest(
                stage="prepare",
                run="bench",
                config=config,
                inputs={},
                seed=derive_seed(0, "prepare"),
                store=str(home / name),
                scratch=str(home / "scratch" / f"{name}-{repetition}"),
            )
            seconds[name].append(_seconds(lambda: execute(request, backend, home / "log", lambda _: None)))  # noqa: B023
    extra = [a - b for a, b in zip(seconds["docker"], seconds["process"], strict=True)]
    return {**seconds, "container_over_process_s": round(statistics.median(extra), 2)}


def measure_store(home: Path) -> dict[str, Any]:
    """MB/s of one large file up and down, ours over boto3's."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    client = boto3.client("s3")
    client.create_bucket(Bucket="bench")
    large = home / "large"
    large.write_bytes(os.urandom(CHECKPOINT_BYTES))
    rates: dict[str, list[float]] = {"up": [], "up_boto3": [], "down": [], "down_boto3": []}

    def note(name: str, work: Callable[[], object]) -> None:
        rates[name].append(round(CHECKPOINT_BYTES / 1e6 / _seconds(work), 1))

    for repetition in range(REPETITIONS):
        store = Store("s3://bench/ours", cache=home / f"cache{repetition}")
        provenance = Provenance("bench", {}, repetition, {})
        with store.staging("checkpoint") as directory:
            shutil.copyfile(large, directory / "model.safetensors")
            published: list[Any] = []
            note("up", lambda: published.append(store.publish("checkpoint", directory, provenance)))  # noqa: B023
        note("up_boto3", lambda: client.upload_file(str(large), "bench", "theirs"))
        reader = Store("s3://bench/ours", cache=home / f"reader{repetition}")
        note("down", lambda: reader.fetch(published[0]))  # noqa: B023
        note("down_boto3", lambda: client.download_file("bench", "theirs", str(home / "theirs")))
        shutil.rmtree(home / f"reader{repetition}")
    server.stop()
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {f"{way}_ratio": round(middle[way] / middle[f"{way}_boto3"], 2) for way in ("up", "down")}
    return {"megabytes_per_s": rates, **ratios}


def measure_rebuild(home: Path) -> dict[str, Any]:
    """Seconds of `images/build.py train` after a line was added to one source file, in a copy of the tree."""
    copy = home / "tree"
    names = ("tasks", "data", "images", ".git")
    for name in names:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, str(copy / "images" / "build.py"), "train", "--base-image", "tirflow-base"]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    seconds = []
    for repetition in range(REPETITIONS):
        with (copy / "tasks" / "sft" / "steps.py").open("a") as source:
            source.write(f"# change {repetition}\n")
        build = [*command, "--prefix", "tirflow-"]
        seconds.append(
            _seconds(lambda: subprocess.run(build, env=environment, check=True, capture_output=True))  # noqa: B023
        )
    # The image of this tree again, which that of the copy has replaced.
    again = [sys.executable, str(ROOT / "images" / "build.py"), *command[2:], "--prefix", "tirflow-"]
    subprocess.run(again, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return {"seconds": seconds}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 2)


MEASURES = {"stage": measure_stage, "store": measure_store, "rebuild": measure_rebuild}


def main(names: list[str]) -> int:
    """Measure what is named, or all; one JSON object."""
    found = {}
    for name in names or MEASURES:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            home = Path(directory)
            home.chmod(0o755)
            os.environ["TIRFLOW_HOME"] = directory
            found[name] = MEASURES[name](home)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
