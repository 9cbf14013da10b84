"""A Prefect server (SQLite) and a process worker of one's own, under the project's home, on a free loopback port.

Both are daemons of this user: `start` returns when they are healthy, `stop` ends exactly the processes it started.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient

from flows.server import deployments
from tasks.shared.contract.environment import inherited_environment

POOL = "local"
PREFERRED_PORT = 4200
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
IDLE_STOP_TIMEOUT_S = 10.0  # with no flow below it there is nothing to wait for


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process that was started, told apart from a later one with the same id by its creation time."""

    pid: int
    created: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server and worker."""

    home: Path
    port: int
    server: Daemon
    worker: Daemon
    owner: Daemon | None  # the process that ends the cluster when it ends; None after `tirflow up`

    @property
    def ui_url(self) -> str:
        """Where people look."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Where clients connect."""
        return f"{self.ui_url}/api"


def start(home: Path, owned: bool = False, port: int = PREFERRED_PORT) -> Cluster:
    """The cluster of this home with the deployments of prefect.yaml: the running one, or a new one, healthy.

    `owned`: it should not outlive this process. `port`: the server's if nobody has it, 0 for any free one. Raises
    ValueError, naming the log, if it does not become healthy.
    """
    running = find(home)
    if running and _alive(running.server) and _alive(running.worker):
        if not _is_deployed(home):
            deploy(home, running.port)
        return running
    if running:
        stop(running)
        port = running.port  # there a flow that outlived its worker looks for it
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    server, port = _start_server(home, port)
    started = [server]
    try:
        # Before there is a worker: on SQLite a deployment written while one polls can wait a minute for a lock.
        _make_pool(port)
        deploy(home, port)
        command = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "local"]
        environment = inherited_environment() | settings(home, port)
        started.append(_spawn(command, environment, home / "prefect" / "worker.log"))
        cluster = Cluster(home, port, started[0], started[1], _daemon(os.getpid()) if owned else None)
        _state_path(home).write_text(json.dumps(asdict(cluster), default=str))
        _wait_healthy(started[1], lambda: _worker_is_online(cluster), home / "prefect" / "worker.log")
    except BaseException:
        for daemon in reversed(started):
            _end(daemon)
        raise
    return cluster


def find(home: Path) -> Cluster | None:
    """The cluster that was started under this home and not stopped; its processes may have died since."""
    path = _state_path(home)
    if not path.is_file():
        return None
    state = json.loads(path.read_text())
    owner = Daemon(**state["owner"]) if state["owner"] else None
    return Cluster(home, state["port"], Daemon(**state["server"]), Daemon(**state["worker"]), owner)


def is_orphan(cluster: Cluster) -> bool:
    """True if the process that should have stopped this cluster has died."""
    return cluster.owner is not None and not _alive(cluster.owner)


def is_ours(cluster: Cluster) -> bool:
    """True if this process has to stop it: it started it, or whoever should have stopped it has died."""
    return cluster.owner is not None and (cluster.owner.pid == os.getpid() or is_orphan(cluster))


def keep(cluster: Cluster) -> None:
    """Let the cluster stay until `stop`."""
    state = asdict(cluster) | {"owner": None}
    _state_path(cluster.home).write_text(json.dumps(state, default=str))


def stop(cluster: Cluster) -> None:
    """End the worker (with its flows), then the server."""
    _end(cluster.worker)
    _end(cluster.server)
    _state_path(cluster.home).unlink(missing_ok=True)


def deploy(home: Path, port: int) -> None:
    """Bring the server's deployments in line with prefect.yaml. ValueError, one line, if that fails."""
    environment = inherited_environment() | settings(home, port)
    with SyncPrefectClient(environment["PREFECT_API_URL"]) as client:
        deployments.deploy(deployments.read_deployments(), client, environment)
    _deployed_path(home).write_text(_deployments_digest())


def settings(home: Path, port: int) -> dict[str, str]:
    """Environment of server, worker and clients. The values that differ from Prefect's defaults have a reason each."""
    prefect = home / "prefect"
    return {
        "TIRFLOW_HOME": str(home),
        "PREFECT_HOME": str(prefect),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{prefect / 'prefect.db'}",
        # Leases in memory are lost with the server, their slots stay taken.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # a server that is away is an error, not a reason for another
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # a run is picked up within two seconds, not ten
        "PREFECT_CLIENT_MAX_RETRIES": "9",  # outlasts a server that is away for 100 s
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # which it answers while its database is away
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # what a zombie is known by
        "DO_NOT_TRACK": "1",
    }


def require_server(api_url: str | None) -> str:
    """The API's address if a Prefect server answers there; ValueError, one line, with the remedy if not."""
    if not api_url:
        raise ValueError(
            'PREFECT_API_URL is not set: start a server with `tirflow up`, then `eval "$(tirflow env)"`'
        )
    try:
        httpx.get(f"{api_url}/health", timeout=5.0).raise_for_status()
    except httpx.HTTPError as error:
        raise ValueError(
            f"PREFECT_API_URL {api_url}: no Prefect server answers ({type(error).__name__}); start one: `tirflow up`"
        ) from None
    return api_url


def _spawn(arguments: list[str], environment: dict[str, str], log_path: Path) -> Daemon:
    """Start a Prefect command in a session of its own: under a shell's nohup it would ignore SIGTERM."""
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    return _daemon(process.pid)


def _daemon(pid: int) -> Daemon:
    return Daemon(pid, psutil.Process(pid).create_time())


def _alive(daemon: Daemon) -> bool:
    try:
        process = psutil.Process(daemon.pid)
        return process.create_time() == daemon.created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(daemon: Daemon) -> None:
    """SIGTERM to the process, and SIGKILL to its group if it has not ended in time."""
    if not _alive(daemon):
        return
    busy = psutil.Process(daemon.pid).children()
    os.kill(daemon.pid, signal.SIGTERM)
    deadline = time.monotonic() + (STOP_TIMEOUT_S if busy else IDLE_STOP_TIMEOUT_S)
    while _alive(daemon):
        if time.monotonic() > deadline:
            os.killpg(daemon.pid, signal.SIGKILL)
        time.sleep(0.05)


def _start_server(home: Path, preferred: int) -> tuple[Daemon, int]:
    """A server and its port. A port that was free may be another's by the time the server binds: then once more."""
    log_path = home / "prefect" / "server.log"
    for wanted in (preferred, 0, 0):
        port = _free_port(wanted)
        command = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = _spawn(command, inherited_environment() | settings(home, port), log_path)
        try:
            _wait_healthy(server, lambda: _listens(server, port) and _answers(port), log_path)  # noqa: B023
        except BaseException as error:
            _end(server)
            if isinstance(error, ValueError) and not _is_free(port):
                continue
            raise
        return server, port
    raise ValueError(f"Prefect did not start: others took three ports one after the other; see {log_path}")


def _wait_healthy(daemon: Daemon, is_healthy: Callable[[], bool], log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and _alive(daemon):
        if is_healthy():
            return
        time.sleep(0.1)
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    raise ValueError(f"Prefect did not start: {lines[-1].strip() if lines else 'no output'}; see {log_path}")


def _listens(daemon: Daemon, port: int) -> bool:
    """True if the daemon itself does, or a child of it: another's server would answer as well."""
    try:
        process = psutil.Process(daemon.pid)
        family = [process, *process.children(recursive=True)]
        sockets = [socket for one in family for socket in one.net_connections("tcp")]
    except psutil.NoSuchProcess:
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2.0).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False  # not listening yet


def _make_pool(port: int) -> None:
    """The work pool, if it is not there yet."""
    response = httpx.post(
        f"http://127.0.0.1:{port}/api/work_pools/", json={"name": POOL, "type": "process"}, timeout=90.0
    )
    if response.status_code != httpx.codes.CONFLICT:
        response.raise_for_status()


def _worker_is_online(cluster: Cluster) -> bool:
    """True once the worker's first heartbeat is stored."""
    workers = httpx.post(f"{cluster.api_url}/work_pools/{POOL}/workers/filter", json={}, timeout=90.0)
    return workers.status_code == httpx.codes.OK and any(row["status"] == "ONLINE" for row in workers.json())


def _free_port(preferred: int) -> int:
    """The preferred port if nobody has it, or else any free one."""
    if preferred and _is_free(preferred):
        return preferred
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also just after a server ended
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_deployed(home: Path) -> bool:
    path = _deployed_path(home)
    return path.is_file() and path.read_text() == _deployments_digest()


def _deployments_digest() -> str:
    return hashlib.sha256(deployments.DEPLOYMENTS.read_bytes()).hexdigest()


def _deployed_path(home: Path) -> Path:
    """Holds the digest of the deployments that the server of this home has."""
    return home / "prefect" / "deployed.sha256"


def _state_path(home: Path) -> Path:
    return home / "prefect" / "cluster.json"
