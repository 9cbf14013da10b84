"""Kinds of GPUs: `data/gpus.toml`, read into records."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

GPUS_PATH = Path(__file__).with_name("gpus.toml")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind, as its data sheet states it."""

    name: str
    memory_gib: float  # usable
    bandwidth: float  # bytes a second of its memory
    flops: float  # dense bfloat16 operations a second


def load_gpus() -> dict[str, Gpu]:
    """All kinds by name."""
    tables = tomllib.loads(GPUS_PATH.read_text(encoding="utf-8"))
    return {
        name: Gpu(name, entry["memory_gib"], entry["bandwidth_tb"] * 1e12, entry["tflops"] * 1e12)
        for name, entry in tables.items()
    }


def find_gpu(name: str) -> Gpu:
    """The kind of that name. Raises ValueError, which lists the known ones, if there is none."""
    gpus = load_gpus()
    if name not in gpus:
        raise ValueError(f"{GPUS_PATH.name}: no GPU '{name}'; add it there or use one of {', '.join(gpus)}")
    return gpus[name]


def gpu_of_memory(memory_gib: float) -> Gpu:
    """The kind whose memory is nearest to this size; of two equally near ones the first."""
    return min(load_gpus().values(), key=lambda gpu: abs(gpu.memory_gib - memory_gib))
