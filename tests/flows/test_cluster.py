"""A home starts its own server, also when two start at once."""

import fcntl
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from flows.server import cluster
from tests.flows.conftest import Prefect


def test_a_port_taken_by_another_server_is_noticed(
    prefect: Prefect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port was free when it was chosen. Now a healthy server of another home answers there."""
    choose, chosen = cluster._free_port, [prefect.cluster.port]
    monkeypatch.setattr(cluster, "_free_port", lambda wanted: chosen.pop() if chosen else choose(wanted))
    (tmp_path / "prefect").mkdir()
    server, port = cluster._start_server(tmp_path, prefect.cluster.port)
    try:
        assert not chosen and port != prefect.cluster.port
        assert cluster._listens(server, port) and not cluster._listens(server, prefect.cluster.port)
    finally:
        cluster._end(server)
    assert prefect.filter("deployments", {}), "the first one is untouched"


def test_of_two_starts_at_once_the_second_waits_and_finds_the_first(prefect: Prefect) -> None:
    found: list[cluster.Cluster] = []
    second = threading.Thread(target=lambda: found.append(cluster.start(prefect.home)))
    with (prefect.home / "prefect" / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second.start()
        second.join(0.5)
        assert second.is_alive()
    second.join(60)
    assert found == [prefect.cluster]


def test_a_damaged_state_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "cluster.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"cluster\.json: damaged; delete it, and end .*this home if they run$"
    ):
        cluster.find(tmp_path)


def test_a_server_without_output_on_a_full_disk_is_reported_so(small_disk: Path) -> None:
    (small_disk / "server.log").touch()
    with (small_disk / "rest").open("wb", buffering=0) as rest, suppress(OSError):
        while True:
            rest.write(bytes(2**16))
    ended = cluster.Daemon(pid=0, created=0.0)
    with pytest.raises(ValueError, match=r"no output, and no space is left on its disk; see .*server\.log$"):
        cluster._wait_healthy(ended, lambda: False, small_disk / "server.log")
