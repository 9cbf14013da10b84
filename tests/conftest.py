"""Fixtures with real parts: a small disk (tmpfs), an S3 server (moto). Distribution of tests to processes."""

import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch is loaded: a second thread does not speed up tiny kernels and spins against other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file. All tests that need a Prefect server go to one process, which starts it once."""
    from xdist.scheduler import LoadFileScheduling

    class OneServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/flows" if nodeid.startswith("tests/flows/") else super()._split_scope(nodeid)

    return OneServer(config, log)


def pytest_configure() -> None:
    """Imports and collection leave little garbage, and a collector would take longer than they do."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Freeze all objects so far: DeepSpeed collects garbage at every engine and would scan them."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MiB. Mounting needs root; without it the test fails rather than passing unseen."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts a tmpfs, which needs root: run it as root")
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a new bucket on this test's own moto server."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # a cached file system would belong to an earlier test's server
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="artifacts")
    yield "s3://artifacts/tirflow"
    server.stop()
