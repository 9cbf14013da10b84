"""Opening a pool for a stage: which servers there are, who starts them, and their end."""

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.environment import named_key, rank
from tasks.shared.generation.pool.generator import PoolFollower, PoolGenerator
from tasks.shared.generation.pool.members import Member
from tasks.shared.generation.pool.server import ServerProcess, plan_servers
from tasks.shared.generation.pool.weights import WeightFiles
from tasks.shared.generation.protocol import Generator
from tasks.shared.generation.vllm_options import engine_options

LOOPBACK = "127.0.0.1"


@contextmanager
def open_pool(
    config: GenerationConfig,
    model_config: ModelConfig,
    checkpoint: Path,
    eos_ids: Sequence[int],
    scratch: Path,
    num_training: int,
) -> Iterator[Generator]:
    """The recipe's pool with the checkpoint's weights, in the first rank; in the others what follows it."""
    if rank() > 0:
        yield PoolFollower()
        return
    pool = config.pool
    processes: list[ServerProcess] = []
    if pool.addresses:
        token = named_key(pool.key_variable, "generation.pool.key_variable")
        members = [Member(address, None, url=address.rstrip("/")) for address in pool.addresses]
    else:
        token = secrets.token_urlsafe(32)
        processes = plan_servers(
            pool,
            engine_options(config, model_config, checkpoint, torch.cuda.is_available()),
            num_taken=num_training,
            listen=LOOPBACK,
            token=token,
            directory=scratch / "servers",
        )
        members = [Member(process.name, process) for process in processes]
    generator = PoolGenerator(
        members,
        token,
        slots=config.max_sequences,
        restarts=pool.restarts,
        eos_ids=eos_ids,
        paths=[str(path) for path in sorted(checkpoint.glob("*.safetensors"))],
        files=WeightFiles(None),
    )
    try:
        yield generator
    finally:
        generator.close()
        with ThreadPoolExecutor(max(1, len(processes))) as stopping:
            list(stopping.map(ServerProcess.stop, processes))
