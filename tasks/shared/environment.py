"""Every environment variable that tirflow reads, in one place."""

import os
from pathlib import Path


def home() -> Path:
    """`TIRFLOW_HOME`: where store, scratch and the local Prefect server live; `.tirflow` in the working directory."""
    return Path(os.environ.get("TIRFLOW_HOME", ".tirflow")).resolve()


def store_uri() -> str:
    """`TIRFLOW_STORE`: the artifact store, a directory or an fsspec URI; `<home>/store`."""
    return os.environ.get("TIRFLOW_STORE", str(home() / "store"))


def sandbox_token() -> str | None:
    """`TIRFLOW_SANDBOX_TOKEN`: the token of a sandbox server reached over TCP."""
    return os.environ.get("TIRFLOW_SANDBOX_TOKEN")


def world_size() -> int:
    """`WORLD_SIZE` as a launcher of ranks sets it; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """`RANK` as a launcher of ranks sets it; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def under_launcher() -> bool:
    """True inside a rank that torchrun or the DeepSpeed launcher started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def configure_vllm(cpu_cache_gib: int) -> None:
    """Set what vLLM reads when it is imported: engine in this process, no usage reports, warnings only.

    The engine core must live in this process so that weights go over as tensors, without a file or a socket.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cpu_cache_gib))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
