"""Kinds of GPUs: `data/gpus.toml`, read into records."""

from dataclasses import dataclass

from data.tables import find_entry, read_tables


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind, as its data sheet states it."""

    name: str
    memory_gib: float  # usable
    bandwidth: float  # bytes a second of its memory
    flops: float  # dense bfloat16 operations a second


def load_gpus() -> dict[str, Gpu]:
    """All kinds by name."""
    return {
        name: Gpu(name, entry["memory_gib"], entry["bandwidth_tb"] * 1e12, entry["tflops"] * 1e12)
        for name, entry in read_tables("gpus.toml").items()
    }


def find_gpu(name: str) -> Gpu:
    """The kind of that name. Raises ValueError, which lists the known ones, if there is none."""
    return find_entry(load_gpus(), name, "gpus.toml: no GPU", "add it there or use one of {}")


def gpu_of_memory(memory_gib: float) -> Gpu:
    """The kind whose memory is nearest to this size; of two equally near ones the first."""
    return min(load_gpus().values(), key=lambda gpu: abs(gpu.memory_gib - memory_gib))
