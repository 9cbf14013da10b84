"""The log of responses on a disk where files go missing and writes fail."""

import resource
from pathlib import Path

import pytest

from tasks.shared.generation.endpoint.completion import Usage
from tasks.shared.generation.endpoint.responses import ResponseKey, ResponseLog


def key(number: int) -> ResponseKey:
    return ResponseKey("teacher", f"p/{number}", 0, 0, "digest")


def test_a_log_goes_on_after_a_damaged_file_was_taken_away(tmp_path: Path) -> None:
    for number in range(3):
        ResponseLog(tmp_path).append(key(number), str(number), Usage())
    min(tmp_path.iterdir()).unlink()
    log = ResponseLog(tmp_path)
    assert log.find(key(0)) is None
    log.append(key(0), "again", Usage())
    assert [ResponseLog(tmp_path).find(key(number)) for number in range(3)] == ["again", "1", "2"]


def test_a_write_that_fails_in_its_middle_spoils_nothing_that_follows(tmp_path: Path) -> None:
    log, (soft, hard) = ResponseLog(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    log.append(key(0), "first", Usage())
    [path] = tmp_path.iterdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            log.append(key(1), "lost", Usage())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.append(key(2), "third", Usage())
    assert [ResponseLog(tmp_path).find(key(number)) for number in range(3)] == ["first", None, "third"]
