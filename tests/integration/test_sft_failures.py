"""Stage `sft` in this process: mistakes in the request, a full disk at publication, a validation loss."""

from pathlib import Path
from typing import Any

import pytest

from tasks.shared.artifacts import Store
from tasks.shared.contract.stage import StageRequest
from tests.integration.sft_world import make_request
from tests.integration.stages import in_process, read_lines


def fill(disk: Path) -> Path:
    """Fill a small disk. Returns the file that does."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            return path
    raise AssertionError("the disk did not get full")


def test_a_full_disk_at_publication_loses_no_training(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = make_request(tmp_path, store_dir=small_disk)
    filler = fill(small_disk)
    with pytest.raises(OSError, match="no space left on the artifact store's disk"):
        in_process(request)
    filler.unlink()
    capsys.readouterr()
    result = in_process(request)
    steps = result.metrics["steps"]
    assert f"resuming after step {steps} of {steps}" in capsys.readouterr().out
    assert result.metrics["tokens_per_s"] == 0  # no step was repeated
    assert Store(request.store).fetch(result.outputs["checkpoint"]).is_dir()


def test_checkpoints_of_another_request_are_not_taken_up(tmp_path: Path, small_disk: Path) -> None:
    request = make_request(tmp_path, store_dir=small_disk)
    fill(small_disk)
    with pytest.raises(OSError):
        in_process(request)
    with pytest.raises(ValueError, match="checkpoints of another request"):
        in_process(request.model_copy(update={"seed": 8}))


def with_sft(request: StageRequest, **changes: Any) -> StageRequest:
    return request.model_copy(
        update={"config": {**request.config, "sft": {**request.config["sft"], **changes}}}
    )


def test_a_row_budget_below_the_longest_trace_is_refused(tmp_path: Path) -> None:
    request = with_sft(make_request(tmp_path), tokens_per_micro_batch=100)
    with pytest.raises(ValueError, match="tokens_per_micro_batch = 100 is less than the longest trace; use "):
        in_process(request)


def test_held_out_problems_are_only_evaluated(tmp_path: Path) -> None:
    request = with_sft(make_request(tmp_path), validation_share=0.3, evaluate_every_steps=2)
    result = in_process(request)
    checkpoint = Store(request.store).fetch(result.outputs["checkpoint"])
    trained, validation = (read_lines(checkpoint / name) for name in ("metrics.jsonl", "validation.jsonl"))
    steps = len(trained)
    assert [line["step"] for line in validation] == sorted({*range(0, steps + 1, 2), steps})
    assert 0 < 48 - sum(line["sequences"] for line in trained) < 30
    assert validation[-1]["loss"] < 0.8 * validation[0]["loss"]
    assert result.metrics["validation_loss"] == validation[-1]["loss"]
    [tokens] = {line["trained_tokens"] for line in validation}
    assert tokens > 0


def test_the_same_request_gives_the_same_artifact(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    digests = {
        in_process(with_sft(make_request(root), max_steps=2)).outputs["checkpoint"].digest
        for root in (first, second)
    }
    assert len(digests) == 1
