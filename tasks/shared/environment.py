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
