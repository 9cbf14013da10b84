"""Versions and hardware on which an evaluation's samples can depend, recorded beside its summary."""

import platform
from importlib import metadata

import torch

LIBRARIES = ("math-verify", "numpy", "sympy", "tokenizers", "torch", "transformers", "vllm")


def environment_versions() -> dict[str, str]:
    """Versions, processor and threads by name: they explain why equal seeds gave different samples."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["processor"] = torch.backends.cpu.get_cpu_capability()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["threads"] = str(torch.get_num_threads())
    return found
