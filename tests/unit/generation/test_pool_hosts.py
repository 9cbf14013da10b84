"""A host that samples for another one: what it announces, and its end."""

import threading
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.contract.stage import Rendezvous
from tasks.shared.generation.pool import hosts
from tests.waiting import until


class Listening:
    """A server of the host, with another URL after each start."""

    def __init__(self) -> None:
        self.num_starts, self.dead, self.stopped = 0, False, False

    def start(self) -> str:
        self.num_starts += 1
        self.dead = False
        return f"http://host:{self.num_starts}"

    def ended(self) -> bool:
        return self.dead

    def stop(self) -> None:
        self.stopped = True


def test_servers_are_announced_after_each_start_until_the_pool_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendezvous = Rendezvous(nodes=2, node=1, address="127.0.0.1", port=1, shared=str(tmp_path), samplers=1)
    servers, given = [Listening(), Listening()], {}

    def plan_servers(*_: object, **settings: Any) -> list[Listening]:
        given.update(settings)
        return servers

    monkeypatch.setattr(hosts, "plan_servers", plan_servers)
    monkeypatch.setattr(hosts, "POLL_S", 0.01)
    directory = hosts.invite(rendezvous, "a token")
    seen = [hosts.AnnouncedServer(directory, 1, number) for number in (0, 1)]
    assert [server.start() for server in seen] == [None, None]
    arguments = (rendezvous, GenerationConfig(), ModelConfig(source="tiny"), tmp_path, tmp_path)
    host = threading.Thread(target=hosts.keep_servers, args=arguments)
    host.start()
    until(lambda: [server.start() for server in seen] == ["http://host:1"] * 2)
    assert given["token"] == "a token" and not any(server.ended() for server in seen)
    servers[1].dead = True
    until(seen[1].ended)
    assert [server.start() for server in seen] == ["http://host:1", "http://host:2"]
    assert not any(server.ended() for server in seen)
    hosts.dismiss(directory)
    host.join()
    assert all(server.stopped for server in servers) and not (directory / hosts.TOKEN_FILE).exists()
