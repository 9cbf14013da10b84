"""A stage's log goes to the object store. An unreachable store does not hide why the stage failed."""

import logging
from pathlib import Path

import pytest
import s3fs

from tasks.launch.run import _upload_log
from tasks.shared.contract.addresses import free_port
from tasks.shared.contract.stage import StageRequest


def request(store: str, tmp_path: Path) -> StageRequest:
    scratch = str(tmp_path / "scratch")
    return StageRequest(stage="sft", run="demo", config={}, inputs={}, seed=0, store=store, scratch=scratch)


def test_the_log_lies_beside_the_artifacts(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "sft.log").write_text("a line\n")
    _upload_log(request(bucket, tmp_path), tmp_path / "sft.log")
    assert s3fs.S3FileSystem().cat(f"{bucket}/logs/demo/sft.log") == b"a line\n"


def test_an_unreachable_store_is_logged_and_no_error(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port('127.0.0.1')}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    (tmp_path / "sft.log").write_text("a line\n")
    logger = logging.getLogger("told")
    monkeypatch.setattr("tasks.launch.run.get_run_logger", lambda: logger)
    _upload_log(request(bucket, tmp_path), tmp_path / "sft.log")
    assert "full log stays on this host" in caplog.text
