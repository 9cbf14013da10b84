"""A home starts its own server, also when two start at once."""

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
