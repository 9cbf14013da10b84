"""The servers that a stage starts: their GPUs or cores, their command, and a guard for each.

A server listens on one address of this host and answers no request without the token (`token_guard.py`). It ends with
the process that started it, however that ends.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tasks.shared.config import GenerationConfig, ModelConfig, PoolConfig
from tasks.shared.contract.addresses import free_port
from tasks.shared.contract.environment import server_environment, visible_gpus
from tasks.shared.contract.guarded import RunningProcess, start_guarded
from tasks.shared.generation.vllm_options import CPU_CACHE_GIB, engine_options

PACKAGE = "tasks.shared.generation.pool"
LAST_LINES = 3
ERROR = re.compile(r"^(\(\w+ pid=\d+\) )?[\w.]*(Error|Exception)\b")  # as a traceback ends
NCCL = '{"backend": "nccl"}'  # vLLM's weight_transfer_config
# Runs the worker in the engine's own process. On the CPU vLLM would start another process even for a single worker; the
# two then wait for each other by spinning, which takes two cores and starves the asking process on a small machine.
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


class PoolFailed(ValueError):
    """The pool cannot start or go on; one line with the cause."""


class ServerProcess:
    """A server of this host, which can be started again."""

    elsewhere = False  # whether it is on another host, which restarts it

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        *,
        listen: str,
        token: str,
        devices: str,
        cores: str,
        directory: Path,
        restarts: int,
    ) -> None:
        """`options` are vLLM's engine arguments; `listen` an address of this host; `directory` holds the log."""
        self.name = name
        self._log_path = directory / f"{name}.log"
        self._options = options
        self._listen = listen
        self._environment = server_environment(CPU_CACHE_GIB, token, devices, cores)
        self._restarts = restarts
        self._deaths = 0
        self._running: RunningProcess | None = None

    def start(self) -> str:
        """Start or restart it on a free port; its URL, which answers once the model is loaded.

        PoolFailed after too many deaths.
        """
        if self._running is not None:
            self._running.stop()
            self._deaths += 1
            if self._deaths > self._restarts:
                raise PoolFailed(
                    f"{self.name} died {self._deaths} times (generation.pool.restarts = {self._restarts}); "
                    f"{self.last_words()}"
                )
        port = free_port(self._listen)
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            self._running = start_guarded(
                server_command(self._options, self._listen, port),
                env=self._environment,
                cwd=self._log_path.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        host = f"[{self._listen}]" if ":" in self._listen else self._listen
        return f"http://{host}:{port}"

    def ended(self) -> bool:
        """True if it was started and has ended."""
        return self._running is not None and self._running.ended()

    def stop(self) -> None:
        """End it with all its processes."""
        if self._running is not None:
            self._running.stop()

    def last_words(self) -> str:
        """The end of its log, for a message."""
        lines = [line for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
        errors = [number for number, line in enumerate(lines) if ERROR.search(line)]
        last = lines[errors[-1] :] if errors else lines[-LAST_LINES:]
        return f"its log {self._log_path} ends: " + " | ".join(last[:LAST_LINES])[:600]


def stop_all(servers: Sequence[ServerProcess]) -> None:
    """End them in parallel, because each takes seconds."""
    with ThreadPoolExecutor(max(1, len(servers))) as stopping:
        list(stopping.map(lambda server: server.stop(), servers))


def server_command(options: Mapping[str, Any], listen: str, port: int) -> list[str]:
    """The command of vLLM's server with what the pool needs: token ids in and out, weight updates, the token guard."""
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            command += [f"--{flag}", str(value)]
    command += ["--host", listen, "--port", str(port)]
    command += ["--enable-scale-out", "--disable-fastapi-docs", "--disable-uvicorn-access-log"]
    command += ["--uvicorn-log-level", "warning"]
    command += ["--middleware", f"{PACKAGE}.token_guard.RequireToken"]
    return [*command, "--worker-extension-cls", f"{PACKAGE}.worker.PoolWorker"]


def plan_servers(
    config: GenerationConfig,
    model_config: ModelConfig,
    checkpoint: Path,
    *,
    num_taken: int,
    listen: str,
    token: str,
    directory: Path,
) -> list[ServerProcess]:
    """The servers of this host; its first `num_taken` GPUs or cores are the trainer's. ValueError if GPUs lack."""
    pool, gpus = config.pool, gpus_of_host()
    parts = pool.servers * pool.tensor_parallel
    if gpus:
        shares = [[gpu] for gpu in gpus[num_taken:]]
        if len(shares) < parts:
            raise ValueError(
                f"generation.pool: {pool.servers} servers of {pool.tensor_parallel} GPUs need {parts} GPUs, and "
                f"this host has {len(shares)} that nobody trains on; lower servers, tensor_parallel or "
                "optimizer.ranks, or give the pool hosts of its own (generation.pool.nodes)"
            )
    else:
        shares = core_shares(sorted(os.sched_getaffinity(0)), num_taken, parts)
    options = {
        **engine_options(config, model_config, checkpoint),
        "tensor_parallel_size": pool.tensor_parallel,
        "quantization": None if pool.quantization == "none" else pool.quantization,
        "weight_transfer_config": NCCL if uses_nccl(pool) else None,
        "distributed_executor_backend": None if gpus or pool.tensor_parallel > 1 else ONE_PROCESS,
    }
    servers = []
    for number in range(pool.servers):
        own = shares[number * pool.tensor_parallel : (number + 1) * pool.tensor_parallel]
        named = [",".join(share) for share in own]
        servers.append(
            ServerProcess(
                f"server-{number}",
                options,
                listen=listen,
                token=token,
                devices=",".join(named) if gpus else "",
                cores="" if gpus else "|".join(named),
                directory=directory,
                restarts=pool.restarts,
            )
        )
    return servers


def uses_nccl(config: PoolConfig) -> bool:
    """Whether weights are sent from GPU to GPU. ValueError if the recipe asks for it and there is no GPU."""
    if config.transfer == "nccl" and not torch.cuda.is_available():
        raise ValueError(
            "generation.pool.transfer = 'nccl' needs GPUs, and there is none here: set it to 'auto'"
        )
    return config.transfer != "files" and torch.cuda.is_available()


def core_shares(cores: Sequence[int], num_taken: int, parts: int) -> list[list[str]]:
    """The cores of each of `parts` workers: equally many, at least one; workers share cores if there are too few."""
    free = list(cores[num_taken:]) or list(cores)
    each = max(1, len(free) // parts)
    return [[str(free[(part * each + i) % len(free)]) for i in range(each)] for part in range(parts)]


def gpus_of_host() -> list[str]:
    """The GPUs of this host that this process may use."""
    if not torch.cuda.is_available():
        return []
    return visible_gpus() or [str(number) for number in range(torch.cuda.device_count())]
