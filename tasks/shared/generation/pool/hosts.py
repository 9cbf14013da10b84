"""Hosts that only sample, coordinated with the first host through a directory that all hosts see.

The first host writes the token there, readable by its user alone, and `done` when it closes the pool. A sampling host
starts its servers with that token and announces each server in a file, and again after each restart.
"""

import json
import os
import time
from pathlib import Path
from uuid import uuid4

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.contract.addresses import address_towards
from tasks.shared.contract.documents import write_whole
from tasks.shared.contract.stage import POOL, Rendezvous, emit
from tasks.shared.generation.pool.server import plan_servers, stop_all

TOKEN_FILE, DONE_FILE = "token", "done"
POLL_S = 0.5


class AnnouncedServer:
    """A server on another host, read from its announcement; its host restarts it."""

    elsewhere = True

    def __init__(self, directory: Path, node: int, number: int) -> None:
        self.name = _name(node, number)
        self._path = directory / f"{self.name}.json"
        self._start = ""

    def start(self) -> str | None:
        """Its URL, None until it is announced."""
        announced = self._read()
        self._start = announced.get("start", "")
        return announced.get("url")

    def ended(self) -> bool:
        """True once it is announced again."""
        return self._read().get("start", self._start) != self._start

    def last_words(self) -> str:
        """Where to look: its log is on its host."""
        return f"its log is in that host's scratch directory, {self.name}"

    def _read(self) -> dict[str, str]:
        """The announcement; empty before the first."""
        try:
            return dict(json.loads(self._path.read_text()))
        except FileNotFoundError:
            return {}


def invite(rendezvous: Rendezvous, token: str) -> Path:
    """On the first host: hand out the token; return the directory where the others announce their servers."""
    directory = Path(rendezvous.shared) / POOL
    directory.mkdir(parents=True, exist_ok=True)
    (directory / DONE_FILE).unlink(missing_ok=True)
    partial = directory / f"{TOKEN_FILE}.partial"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(token)
    os.replace(partial, directory / TOKEN_FILE)
    return directory


def dismiss(directory: Path) -> None:
    """On the first host: let the others end."""
    (directory / TOKEN_FILE).unlink(missing_ok=True)
    (directory / DONE_FILE).touch()


def keep_servers(
    rendezvous: Rendezvous, config: GenerationConfig, model_config: ModelConfig, checkpoint: Path, logs: Path
) -> None:
    """On a sampling host: keep its servers running until the first host is done.

    PoolFailed, as for servers of the first host, if one does not start or dies too often.
    """
    directory = Path(rendezvous.shared) / POOL
    while not (directory / TOKEN_FILE).exists():  # the launcher ends a host that waits in vain
        time.sleep(POLL_S)
    servers = plan_servers(
        config,
        model_config,
        checkpoint,
        num_taken=0,
        listen=address_towards(rendezvous.address),
        token=(directory / TOKEN_FILE).read_text(),
        directory=logs,
    )
    emit("log", message=f"samples for the host at {rendezvous.address} with {len(servers)} servers")
    try:
        due = list(enumerate(servers))
        while not (directory / DONE_FILE).exists():
            for number, server in due:
                announced = {"url": server.start(), "start": uuid4().hex}
                path = directory / f"{_name(rendezvous.node, number)}.json"
                write_whole(path, json.dumps(announced))
            time.sleep(POLL_S)
            due = [(number, server) for number, server in enumerate(servers) if server.ended()]
    finally:
        stop_all(servers)


def _name(node: int, number: int) -> str:
    return f"node-{node}-server-{number}"
