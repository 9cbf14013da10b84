"""benchmarks/gpu.py: its FLOPs against torch's own counter, its phases on the device, its warning without a GPU."""

import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks.random_work import make_qwen2, random_sequences
from benchmarks.record import RESULTS
from tasks.shared.learning.logprobs import token_logprobs
from tasks.shared.learning.packing import pack

pytestmark = pytest.mark.gpu


def test_training_flops_are_those_that_torch_counts() -> None:
    shape, length = gpu.TINY.shape, 64
    model = make_qwen2(shape)
    [row] = pack(random_sequences(1, length, shape.vocabulary), length)
    # the unfused kernel also computes masked pairs, so attention counts twice
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        token_logprobs(model, row).sum().backward()
    attention = 6.0 * shape.layers * shape.hidden_size * length**2
    expected = gpu.training_flops(shape, length, row.num_loss_tokens) + attention
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_both_phases_run_on_the_device(device: torch.device) -> None:
    engine = gpu.make_engine(gpu.TINY, cuda=device.type == "cuda")
    for measure in (gpu.measure_sft, gpu.measure_update):
        figures = measure(engine, gpu.TINY, steps=1)
        assert figures.tokens == gpu.TINY.rows * gpu.TINY.row_tokens
        assert figures.seconds > 0 and figures.flops > 0
        assert (figures.peak_gib > 0) == (device.type == "cuda")


def test_the_peak_is_known_or_asked_for() -> None:
    assert gpu.peak_tflops("NVIDIA H200", None) == 989.0
    assert gpu.peak_tflops("Some GPU", 100.0) == 100.0
    with pytest.raises(ValueError, match=r"Some GPU: .* give it with --peak-tflops"):
        gpu.peak_tflops("Some GPU", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the program measures for minutes")
def test_without_a_gpu_it_says_so_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = RESULTS / "gpu.md"
    before = page.read_bytes() if page.is_file() else None
    monkeypatch.setattr(sys, "argv", ["gpu", "--rounds", "1"])
    assert gpu.main() == 0
    assert "NO GPU SEEN" in capsys.readouterr().out
    assert (page.read_bytes() if page.is_file() else None) == before
