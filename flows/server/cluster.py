"""A private Prefect server (SQLite) and process worker, under the project's home, on a free loopback port.

Both are daemons of this user. `start` returns when they are healthy; `stop` ends exactly the processes it started.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient
from pydantic import TypeAdapter, ValidationError

from flows.server import deployments
from tasks.shared.contract.addresses import free_port
from tasks.shared.contract.environment import inherited_environment

POOL = "local"
PREFERRED_PORT = 4200
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
IDLE_STOP_TIMEOUT_S = 10.0  # without flows there is nothing to wait for


@dataclass(frozen=True, slots=True)
class Daemon:
    """A started process. The creation time distinguishes it from a later process with the same id."""

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
        """Address of the user interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Address of the API."""
        return f"{self.ui_url}/api"


def start(home: Path, owned: bool = False, port: int = PREFERRED_PORT) -> Cluster:
    """Return the healthy cluster of this home with the deployments of prefect.yaml, and start it if needed.

    An `owned` cluster should not outlive this process. The server takes `port` if it is free, else (or for 0) any free
    port. Raises ValueError that names the log if the cluster does not become healthy.
    """
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    with (home / "prefect" / "cluster.lock").open("w") as lock:
        # of two that start at once, the second finds what the first has started
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _start(home, owned, port)


def _start(home: Path, owned: bool, port: int) -> Cluster:
    running = find(home)
    if running and _alive(running.server) and _alive(running.worker):
        if not _is_deployed(home):
            deploy(home, running.port)
        return running
    if running:
        stop(running)
        port = running.port  # a flow that outlived its worker looks for the server there
    server, port = _start_server(home, port)
    started = [server]
    try:
        # Before the worker starts: while a worker polls SQLite, writing a deployment can wait a minute for a lock.
        deploy(home, port)
        command = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "local"]
        environment = inherited_environment() | settings(home, port)
        started.append(_spawn(command, environment, home / "prefect" / "worker.log"))
        cluster = Cluster(home, port, started[0], started[1], _daemon(os.getpid()) if owned else None)
        _write_state(cluster)
        _wait_healthy(started[1], lambda: _worker_is_online(cluster), home / "prefect" / "worker.log")
    except BaseException:
        for daemon in reversed(started):
            _end(daemon)
        raise
    return cluster


def find(home: Path) -> Cluster | None:
    """Return the cluster that was started under this home and not stopped. Its processes may have died."""
    path = _state_path(home)
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Cluster).validate_json(path.read_bytes())
    except ValidationError:
        raise ValueError(
            f"{path}: damaged; delete it, and end the `prefect server` and `prefect worker` of this home if they run"
        ) from None


def is_ours(cluster: Cluster) -> bool:
    """Whether this process must stop the cluster: it is the owner, or the owner has died."""
    return cluster.owner is not None and (cluster.owner.pid == os.getpid() or not _alive(cluster.owner))


def keep(cluster: Cluster) -> None:
    """Let the cluster run until `stop`."""
    _write_state(replace(cluster, owner=None))


def stop(cluster: Cluster) -> None:
    """End the worker (with its flows), then the server."""
    _end(cluster.worker)
    _end(cluster.server)
    _state_path(cluster.home).unlink(missing_ok=True)


def deploy(home: Path, port: int) -> None:
    """Make the pool, and bring the server's deployments in line with prefect.yaml. Raises ValueError if that fails."""
    environment = inherited_environment() | settings(home, port)
    with SyncPrefectClient(environment["PREFECT_API_URL"]) as client:
        deployments.make_pool(POOL, client)
        deployments.deploy(deployments.read_deployments(), client, environment)
    _deployed_path(home).write_text(_deployments_digest())


def settings(home: Path, port: int) -> dict[str, str]:
    """Return the environment of server, worker and clients. A comment says why a value is not Prefect's default."""
    prefect = home / "prefect"
    return {
        "TIRFLOW_HOME": str(home),
        "PREFECT_HOME": str(prefect),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{prefect / 'prefect.db'}",
        # Leases in memory would be lost with the server, and their slots would stay taken.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # an absent server is an error; no other one is started
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # starts a run within two seconds, not ten
        "PREFECT_CLIENT_MAX_RETRIES": "9",  # outlasts an absence of the server of 100 s
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # the server's answer while its database is away
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # reveals flows whose process has died
        "DO_NOT_TRACK": "1",
    }


def require_server(api_url: str | None) -> str:
    """Return the API's address if a Prefect server answers there. Raises ValueError with the remedy if not."""
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
    """Start a Prefect command in a session of its own, because under a shell's nohup it would ignore SIGTERM."""
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
    """Send SIGTERM to the process, and SIGKILL to its group if it does not end in time."""
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
    """Start a server. Returns it and its port. Tries again if another process took the port before the server did."""
    log_path = home / "prefect" / "server.log"
    for candidate in (preferred, 0, 0):
        port = _free_port(candidate)
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
    raise ValueError(f"Prefect did not start: other processes took three ports in a row; see {log_path}")


def _wait_healthy(daemon: Daemon, is_healthy: Callable[[], bool], log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and _alive(daemon):
        if is_healthy():
            return
        time.sleep(0.1)
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    full = ", and no space is left on its disk" if shutil.disk_usage(log_path).free < 2**20 else ""
    raise ValueError(
        f"Prefect did not start: {lines[-1].strip() if lines else 'no output'}{full}; see {log_path}"
    )


def _listens(daemon: Daemon, port: int) -> bool:
    """Whether the daemon or a child of it listens on the port. Another server there would also answer."""
    try:
        process = psutil.Process(daemon.pid)
        family = [process, *process.children(recursive=True)]
        connections = [connection for member in family for connection in member.net_connections("tcp")]
    except psutil.NoSuchProcess:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2.0).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False  # not listening yet


def _worker_is_online(cluster: Cluster) -> bool:
    """Whether the worker's first heartbeat is stored."""
    workers = httpx.post(f"{cluster.api_url}/work_pools/{POOL}/workers/filter", json={}, timeout=90.0)
    return workers.status_code == httpx.codes.OK and any(row["status"] == "ONLINE" for row in workers.json())


def _free_port(preferred: int) -> int:
    """Return the preferred port if it is free, or else any free port."""
    return preferred if preferred and _is_free(preferred) else free_port("127.0.0.1")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _is_deployed(home: Path) -> bool:
    path = _deployed_path(home)
    return path.is_file() and path.read_text() == _deployments_digest()


def _deployments_digest() -> str:
    return hashlib.sha256(deployments.DEPLOYMENTS.read_bytes()).hexdigest()


def _deployed_path(home: Path) -> Path:
    """Return the file with the digest of the deployments on the server of this home."""
    return home / "prefect" / "deployed.sha256"


def _write_state(cluster: Cluster) -> None:
    _state_path(cluster.home).write_bytes(TypeAdapter(Cluster).dump_json(cluster))


def _state_path(home: Path) -> Path:
    return home / "prefect" / "cluster.json"
