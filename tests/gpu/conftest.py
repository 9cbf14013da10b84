"""Tests of GPU behaviour. Without a GPU they run on the CPU, and the summary says so."""

import pytest


@pytest.fixture(scope="session")
def device():
    """The first CUDA device, or the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Warn that a pass on a CPU is not a pass on a GPU."""
    import torch

    if not torch.cuda.is_available():
        terminalreporter.write_sep("!", "NO GPU SEEN: tests/gpu ran on the CPU", yellow=True, bold=True)
