"""Every environment variable that tirflow reads, in one place."""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

# What a stage in a container gets of its launcher's environment. Its paths and devices are its own.
CONTAINER_VARIABLES = (
    "LANG",
    "LC_ALL",
    "TZ",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "HF_ENDPOINT",
    "OMP_NUM_THREADS",
    "DS_ACCELERATOR",
    "TIRFLOW_STORE",
    "TIRFLOW_CACHE_GIB",
)
# What a stage process gets. Nothing else is passed on, such as Prefect's settings and keys, or other tokens.
STAGE_VARIABLES = (
    *CONTAINER_VARIABLES,
    "PATH",
    "HOME",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "VLLM_CACHE_ROOT",
    "TIRFLOW_HOME",
)
# Variables that begin so are passed on too, since only the site knows how its network is used.
STAGE_PREFIX = "NCCL_"
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
SANDBOX_TOKEN = "TIRFLOW_SANDBOX_TOKEN_FILE"  # see `sandbox_token_file`


def home() -> Path:
    """`TIRFLOW_HOME`: where store, scratch and the local Prefect server live; `.tirflow` in the working directory."""
    return Path(os.environ.get("TIRFLOW_HOME", ".tirflow")).resolve()


def store_uri() -> str:
    """`TIRFLOW_STORE`: the artifact store, a directory or an fsspec URI; `<home>/store`."""
    store = os.environ.get("TIRFLOW_STORE", str(home() / "store"))
    return store if "://" in store else str(Path(store).resolve())  # stages run in other directories


def s3_attempts() -> int:
    """`AWS_MAX_ATTEMPTS`: how often a request that sends a file to S3 is tried; 8, which takes about a minute."""
    return int(os.environ.get("AWS_MAX_ATTEMPTS", "8"))


def stage_environment(secrets: Sequence[str], config: BaseModel) -> dict[str, str]:
    """The environment of a stage process: an allow-list, and its secrets, see `stage_secrets`.

    One thread unless the launcher's environment says otherwise, as torchrun has it: tiny kernels gain nothing from a
    second one and spin against whatever else runs on the machine (seen: a tenth of the speed).
    """
    return _own_environment(STAGE_VARIABLES) | stage_secrets(secrets, config)


def container_environment() -> dict[str, str]:
    """The environment of a stage in a container; secrets come as a file, which `docker inspect` does not show."""
    return _own_environment(CONTAINER_VARIABLES)


def stage_secrets(secrets: Sequence[str], config: BaseModel) -> dict[str, str]:
    """Of these secrets, and of the keys that `config` names, those that this process's environment has."""
    names = [*secrets, *named_keys(config)]
    names += STORE_SECRETS if "://" in store_uri() else ()
    return {name: os.environ[name] for name in names if name in os.environ}


def load_secrets() -> None:
    """Load the secrets from the file that `TIRFLOW_SECRETS_FILE` names, a JSON object, into the environment."""
    path = os.environ.pop("TIRFLOW_SECRETS_FILE", "")
    if path:
        os.environ.update(json.loads(Path(path).read_text()))


def _own_environment(names: tuple[str, ...]) -> dict[str, str]:
    """The named variables, one thread by default, and where stages find this home."""
    return {"OMP_NUM_THREADS": "1"} | _named(names) | {"TIRFLOW_HOME": str(home()), "PYTHONUNBUFFERED": "1"}


def _named(names: tuple[str, ...]) -> dict[str, str]:
    """Those of these variables that are set, and NCCL's."""
    return {name: text for name, text in os.environ.items() if name in names or name.startswith(STAGE_PREFIX)}


def named_keys(config: BaseModel) -> list[str]:
    """The variables that a stage's configuration names as keys: of endpoints, of a pool."""
    return [name for name, _ in _keys_in(config)]


def _keys_in(section: BaseModel, above: str = "") -> Iterator[tuple[str, str]]:
    """Each variable that is named, and the setting that names it: every one that ends in `key_variable`."""
    for setting, value in section:
        if isinstance(value, BaseModel):
            yield from _keys_in(value, f"{above}{setting}.")
        elif setting.endswith("key_variable") and value:
            yield value, f"{above}{setting}"


def named_key(name: str, setting: str) -> str:
    """The value of the key that a `setting` names, "" for no name. Never log it. ValueError if it is not set."""
    if name and not os.environ.get(name):
        raise ValueError(
            f"{name} is not set, and {setting} names it: export {name}=... before the worker starts"
        )
    return os.environ[name] if name else ""


def require_keys(config: BaseModel) -> None:
    """ValueError, with the remedy, if a key that a stage's configuration names is not set."""
    for name, setting in _keys_in(config):
        named_key(name, setting)


def hub_token() -> str:
    """`HF_TOKEN`: the token to publish on a hub. Never log it. Raises ValueError if it is not set."""
    if not os.environ.get("HF_TOKEN"):
        raise ValueError(
            "HF_TOKEN is not set: export HF_TOKEN=..., a token with write access; or try --dry-run"
        )
    return os.environ["HF_TOKEN"]


def hub_endpoint() -> str:
    """`HF_ENDPOINT`: the hub to publish on."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def inherited_environment() -> dict[str, str]:
    """The whole environment, for Prefect's own server, worker and commands."""
    return dict(os.environ)


def prefect_api_url() -> str | None:
    """`PREFECT_API_URL`: the Prefect server that flows and deployments talk to."""
    return os.environ.get("PREFECT_API_URL")


def chosen_backend() -> str:
    """`TIRFLOW_BACKEND`: where stages run, process (default), docker or workers."""
    return os.environ.get("TIRFLOW_BACKEND", "process")


def cache_limit_bytes() -> int:
    """`TIRFLOW_CACHE_GIB`: size of a host's copies of an object store's artifacts; 500."""
    return int(float(os.environ.get("TIRFLOW_CACHE_GIB", "500")) * 2**30)


def stage_queue() -> str | None:
    """`TIRFLOW_STAGE_QUEUE`: the queue of the stage pool for ordered stages; None for its default."""
    return os.environ.get("TIRFLOW_STAGE_QUEUE")


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """How stages run in containers on this host."""

    images: str  # prefix of the images' names
    gpus: str  # ids, comma-separated; empty for all, if the image is a CUDA build
    memory: str  # of a stage's container, as Docker writes it (64g); empty for no limit
    shared_memory: str  # size of /dev/shm, which NCCL and data loaders use
    network: str  # of stages that need one


def docker_settings() -> DockerSettings:
    """`TIRFLOW_IMAGES`, `TIRFLOW_GPUS`, `TIRFLOW_STAGE_MEMORY`, `TIRFLOW_STAGE_SHM` and `TIRFLOW_STAGE_NETWORK`."""
    return DockerSettings(
        images=os.environ.get("TIRFLOW_IMAGES", "tirflow-"),
        gpus=os.environ.get("TIRFLOW_GPUS", ""),
        memory=os.environ.get("TIRFLOW_STAGE_MEMORY", ""),
        shared_memory=os.environ.get("TIRFLOW_STAGE_SHM", "16g"),
        network=os.environ.get("TIRFLOW_STAGE_NETWORK", "bridge"),
    )


def vllm_python() -> Path:
    """`TIRFLOW_VLLM_PYTHON`: the interpreter of stages that sample with vLLM; by default that of `make setup-vllm`."""
    root = Path(__file__).resolve().parents[3]
    return Path(os.environ.get("TIRFLOW_VLLM_PYTHON", root / ".venv-vllm" / "bin" / "python"))


def serve_key() -> str:
    """`TIRFLOW_API_KEY`: the key that clients of `tirflow serve` must send; "" for none. Never log it."""
    return os.environ.get("TIRFLOW_API_KEY", "")


def reward_environment(key_variable: str) -> dict[str, str]:
    """The environment of a reward function's process. Its only secret is the one that the recipe names."""
    named = {key_variable: named_key(key_variable, "rl.reward_key_variable")} if key_variable else {}
    return {name: os.environ[name] for name in STAGE_VARIABLES if name in os.environ} | named


def sandbox_address() -> str:
    """`TIRFLOW_SANDBOX_ADDRESS`: the interpreter beside this stage's container, where the recipe names none."""
    return os.environ.get("TIRFLOW_SANDBOX_ADDRESS", "")


def image_digest() -> str:
    """`TIRFLOW_IMAGE`: the digest of the image that this stage runs in; empty outside a container."""
    return os.environ.get("TIRFLOW_IMAGE", "")


def sandbox_token_file() -> str:
    """`TIRFLOW_SANDBOX_TOKEN_FILE`: the file that holds the token of a sandbox server reached over TCP; else empty."""
    return os.environ.get(SANDBOX_TOKEN, "")


def shared_directory() -> Path:
    """`TIRFLOW_SHARED`: a directory that all GPU hosts share, for checkpoints of stages over several hosts.

    Raises ValueError if it is not set or does not exist.
    """
    named = os.environ.get("TIRFLOW_SHARED", "")
    if not named or not Path(named).is_dir():
        raise ValueError(
            f"several hosts (optimizer.nodes, generation.pool.nodes): TIRFLOW_SHARED = '{named}' must be a directory "
            "that all GPU hosts share"
        )
    return Path(named).resolve()


def stage_address() -> str:
    """`TIRFLOW_ADDRESS`: the address by which other hosts reach this one; empty for that on the route to the server."""
    return os.environ.get("TIRFLOW_ADDRESS", "")


def ranks_environment(interface: str) -> dict[str, str]:
    """The environment of ranks: that of their stage, and the network `interface` between them ("" for any)."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return (dict.fromkeys(names, interface) if interface else {}) | dict(os.environ)


def world_size() -> int:
    """`WORLD_SIZE` as a launcher of ranks sets it; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """`RANK` as a launcher of ranks sets it; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def under_launcher() -> bool:
    """Whether torchrun or the DeepSpeed launcher started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def configure_vllm(cpu_cache_gib: int) -> None:
    """Set variables that vLLM reads when it is imported: engine in this process, no usage reports, warnings only.

    The engine core must live in this process, so that weights are passed as tensors without a file or a socket.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cpu_cache_gib))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def server_environment(cpu_cache_gib: int, token: str, devices: str, cores: str) -> dict[str, str]:
    """The environment of a server of the pool. Its only secret is its own `token`.

    `devices` are its GPUs, comma-separated. `cores` are those of each of its workers, as vLLM writes them, or "" with
    GPUs.
    """
    return (
        _named(STAGE_VARIABLES)
        | {
            "VLLM_SERVER_DEV_MODE": "1",  # pause, weights and checksums; `RequireToken` stands before them
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", str(cpu_cache_gib)),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "TIRFLOW_POOL_TOKEN": token,
            "PYTHONUNBUFFERED": "1",
        }
        | ({"CUDA_VISIBLE_DEVICES": devices} if devices else {})
        | ({"VLLM_CPU_OMP_THREADS_BIND": cores} if cores else {})
        | ({"OMP_NUM_THREADS": str(cores.count(",") + 1)} if cores and "|" not in cores else {})
    )


def pool_token() -> str:
    """`TIRFLOW_POOL_TOKEN`: the token that clients of a pool's server must send. Never log it."""
    return os.environ.get("TIRFLOW_POOL_TOKEN", "")


def visible_gpus() -> list[str]:
    """`CUDA_VISIBLE_DEVICES`: the ids of the GPUs that this process may use; empty for all of the host."""
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]


def become_only_rank() -> None:
    """Set `LOCAL_RANK` as a launcher would, since DeepSpeed needs it even without one."""
    os.environ.setdefault("LOCAL_RANK", "0")


def quieten_engines() -> None:
    """Limit vLLM's log to errors for a conversation in a terminal, unless `VLLM_LOGGING_LEVEL` is set."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning)


def tell_deepspeed_of_cpu() -> None:
    """Set `DS_ACCELERATOR`, which DeepSpeed reads when it is imported, to avoid a search and a warning."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
