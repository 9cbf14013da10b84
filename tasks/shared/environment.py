"""Every environment variable that tirflow reads, in one place."""

import os
from pathlib import Path

# What a stage process is given of its launcher's environment; everything else (Prefect's settings and keys, other
# tokens) stays behind.
STAGE_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "HF_HOME",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "DS_ACCELERATOR",
    "TIRFLOW_HOME",
    "TIRFLOW_STORE",
)
# Secrets go only where they are needed: the store's keys to every stage when the store is an object store.
STORE_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
)
# Read by the packages themselves, where a recipe's `sinks` names them.
SINK_VARIABLES = (
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_ENTITY",
    "WANDB_MODE",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
STAGE_SECRETS = {
    "prepare": ("HF_TOKEN",),
    "synthesize": ("TIRFLOW_SANDBOX_TOKEN_FILE",),
    "sft": SINK_VARIABLES,
    "rl": ("TIRFLOW_SANDBOX_TOKEN_FILE", *SINK_VARIABLES),
    "evaluate": ("TIRFLOW_SANDBOX_TOKEN_FILE",),
}


def home() -> Path:
    """`TIRFLOW_HOME`: where store, scratch and the local Prefect server live; `.tirflow` in the working directory."""
    return Path(os.environ.get("TIRFLOW_HOME", ".tirflow")).resolve()


def store_uri() -> str:
    """`TIRFLOW_STORE`: the artifact store, a directory or an fsspec URI; `<home>/store`."""
    store = os.environ.get("TIRFLOW_STORE", str(home() / "store"))
    return store if "://" in store else str(Path(store).resolve())  # stages run in other directories


def stage_environment(stage: str) -> dict[str, str]:
    """The environment of a stage process: an allow-list, and the secrets that this stage needs.

    One thread unless the launcher's environment says otherwise, as torchrun has it: tiny kernels gain nothing from a
    second one and spin against whatever else runs on the machine (seen: a tenth of the speed).
    """
    names = [*STAGE_VARIABLES, *STAGE_SECRETS.get(stage, ())]
    if "://" in store_uri():
        names += STORE_SECRETS
    environment = {name: os.environ[name] for name in names if name in os.environ}
    return {"OMP_NUM_THREADS": "1"} | environment | {"TIRFLOW_HOME": str(home()), "PYTHONUNBUFFERED": "1"}


def inherited_environment() -> dict[str, str]:
    """Everything: for Prefect's own server, worker and commands."""
    return dict(os.environ)


def prefect_api_url() -> str | None:
    """`PREFECT_API_URL`: the Prefect server that flows and deployments talk to."""
    return os.environ.get("PREFECT_API_URL")


def vllm_python() -> Path:
    """`TIRFLOW_VLLM_PYTHON`: the interpreter of stages that sample with vLLM; by default that of `make setup-vllm`."""
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("TIRFLOW_VLLM_PYTHON", root / ".venv-vllm" / "bin" / "python"))


def sandbox_token_file() -> str:
    """`TIRFLOW_SANDBOX_TOKEN_FILE`: the file that holds the token of a sandbox server reached over TCP; else empty."""
    return os.environ.get("TIRFLOW_SANDBOX_TOKEN_FILE", "")


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


def become_only_rank() -> None:
    """Set `LOCAL_RANK` as a launcher would: DeepSpeed asks for it even where there is none."""
    os.environ.setdefault("LOCAL_RANK", "0")


def tell_deepspeed_of_cpu() -> None:
    """Set `DS_ACCELERATOR`, which DeepSpeed reads when it is imported: it then spares itself a search and a warning."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
