"""Hosts that sample for the first one: they meet in a directory that all see.

The first host writes the token there, readable for its user alone, and `done` when it closes the pool. A host that
samples starts its servers with that token and announces each by a file, again when it had to start it again.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import torch

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.contract.addresses import address_towards
from tasks.shared.contract.documents import write_whole
from tasks.shared.contract.stage import POOL, Rendezvous, emit
from tasks.shared.generation.pool.server import ServerProcess, plan_servers, stop_all
from tasks.shared.generation.vllm_options import engine_options

TOKEN_FILE, DONE_FILE = "token", "done"
POLL_S = 0.5


class AnnouncedServer:
    """A server on another host, as it is announced there; its host starts it again."""

    elsewhere = True

    def __init__(self, directory: Path, node: int, number: int) -> None:
        self.name = _name(node, number)
        self._path = directory / f"{self.name}.json"
        self._start = ""

    def start(self) -> str | None:
        """Its URL, None until it is announced."""
        announced = self._read()
        if announced is None:
            return None
        self._start = announced["start"]
        return announced["url"]

    def ended(self) -> bool:
        """True once it is announced anew."""
        announced = self._read()
        return announced is not None and announced["start"] != self._start

    def stop(self) -> None:
        """Its host ends it when the pool is closed."""

    def last_words(self) -> str:
        """They are on its host."""
        return f"its log is in that host's scratch directory, {self.name}"

    def _read(self) -> dict[str, str] | None:
        try:
            found: dict[str, str] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        return found


def invite(meeting: Rendezvous, token: str) -> Path:
    """In the first host: let the others in; the directory where they announce their servers."""
    directory = Path(meeting.shared) / POOL
    directory.mkdir(parents=True, exist_ok=True)
    (directory / DONE_FILE).unlink(missing_ok=True)
    partial = directory / f"{TOKEN_FILE}.partial"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(token)
    os.replace(partial, directory / TOKEN_FILE)
    return directory


def dismiss(directory: Path) -> None:
    """In the first host: the others may end."""
    (directory / TOKEN_FILE).unlink(missing_ok=True)
    (directory / DONE_FILE).touch()


def keep_servers(
    meeting: Rendezvous, config: GenerationConfig, model_config: ModelConfig, checkpoint: Path, logs: Path
) -> None:
    """On a host that samples: keep its servers running until the first host is done.

    PoolFailed, as for servers of the first host, if one does not start or dies too often.
    """
    directory = Path(meeting.shared) / POOL
    token = _wait_for_token(directory)
    servers = plan_servers(
        config.pool,
        engine_options(config, model_config, checkpoint, torch.cuda.is_available()),
        num_taken=0,
        listen=address_towards(meeting.address),
        token=token,
        directory=logs,
    )
    emit("log", message=f"samples for the host at {meeting.address} with {len(servers)} servers")
    try:
        _keep(servers, directory, meeting.node)
    finally:
        stop_all(servers)


def _keep(servers: Sequence[ServerProcess], directory: Path, node: int) -> None:
    """Start every server, again when it died, until the pool is closed."""
    for number, server in enumerate(servers):
        _announce(directory, node, number, server.start())
    while not (directory / DONE_FILE).exists():
        for number, server in enumerate(servers):
            if server.ended():
                _announce(directory, node, number, server.start())
        time.sleep(POLL_S)


def _announce(directory: Path, node: int, number: int, url: str) -> None:
    announced = {"url": url, "start": uuid4().hex}
    write_whole(directory / f"{_name(node, number)}.json", json.dumps(announced))


def _name(node: int, number: int) -> str:
    return f"node-{node}-server-{number}"


def _wait_for_token(directory: Path) -> str:
    """The pool's token, once the first host has written it; the launcher ends those that wait in vain."""
    while not (directory / TOKEN_FILE).exists():
        time.sleep(POLL_S)
    return (directory / TOKEN_FILE).read_text()
