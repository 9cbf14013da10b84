"""Opens a pool for a stage: its servers, who starts them, and their end."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.contract.addresses import address_towards
from tasks.shared.contract.environment import named_key, rank
from tasks.shared.contract.stage import POOL, Rendezvous
from tasks.shared.generation.pool.generator import PoolFollower, PoolGenerator
from tasks.shared.generation.pool.hosts import AnnouncedServer, dismiss, invite
from tasks.shared.generation.pool.members import Member
from tasks.shared.generation.pool.server import ServerProcess, plan_servers, stop_all, uses_nccl
from tasks.shared.generation.protocol import Generator

LOOPBACK = "127.0.0.1"


@contextmanager
def open_pool(
    config: GenerationConfig,
    model_config: ModelConfig,
    checkpoint: Path,
    eos_ids: Sequence[int],
    scratch: Path,
    num_training: int,
    rendezvous: Rendezvous | None,
) -> Iterator[Generator]:
    """The recipe's pool with the checkpoint's weights in the first rank, a follower in the others.

    It includes the hosts of the `rendezvous` that only sample, and this host unless it trains.
    """
    if rank() > 0:
        yield PoolFollower()
        return
    servers, members, token = _members(config, model_config, checkpoint, scratch, num_training, rendezvous)
    shared = invite(rendezvous, token) if rendezvous is not None and rendezvous.samplers else None
    generator = PoolGenerator(
        members,
        token,
        slots=config.max_sequences,
        eos_ids=eos_ids,
        paths=[str(path) for path in sorted(checkpoint.glob("*.safetensors"))],
        directory=shared / "weights" if shared is not None else None,
        nccl_address=_nccl_address(config, rendezvous),
    )
    try:
        yield generator
    finally:
        generator.close()
        if shared is not None:
            dismiss(shared)
        stop_all(servers)


def _members(
    config: GenerationConfig,
    model_config: ModelConfig,
    checkpoint: Path,
    scratch: Path,
    num_training: int,
    rendezvous: Rendezvous | None,
) -> tuple[list[ServerProcess], list[Member], str]:
    """The servers of this host, not started; the members of the pool; the token that all of them require."""
    pool = config.pool
    if pool.addresses:
        token = named_key(pool.key_variable, "generation.pool.key_variable")
        return [], [Member(address, None, url=address.rstrip("/")) for address in pool.addresses], token
    token = secrets.token_urlsafe(32)
    members: list[Member] = []
    if rendezvous is not None and rendezvous.samplers:
        directory = Path(rendezvous.shared) / POOL
        announced = [
            AnnouncedServer(directory, node, number)
            for node in range(rendezvous.trainers, rendezvous.nodes)
            for number in range(pool.servers)
        ]
        members = [Member(server.name, server) for server in announced]
        if num_training:
            return [], members, token
    servers = plan_servers(
        config,
        model_config,
        checkpoint,
        num_taken=num_training,
        listen=LOOPBACK,
        token=token,
        directory=scratch / "servers",
    )
    return servers, [*(Member(server.name, server) for server in servers), *members], token


def _nccl_address(config: GenerationConfig, rendezvous: Rendezvous | None) -> str:
    """This host's address for the NCCL group, "" if weights are sent as files."""
    if not uses_nccl(config.pool):
        return ""
    if config.pool.addresses:
        return address_towards(urlsplit(config.pool.addresses[0]).hostname or LOOPBACK)
    return rendezvous.address if rendezvous is not None and rendezvous.samplers else LOOPBACK
