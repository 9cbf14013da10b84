"""Two hosts on one machine: network namespaces with addresses of their own on a switch.

In the root namespace run Postgres, a Prefect server on it, an S3 server and a worker of the pool `control`. Needs
root, iproute2, postgresql.

Every daemon has a PID namespace, which ends with the test's process however that ends.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from flows.server import cluster
from flows.server.deployments import ROOT
from tests.cluster.network import LOCAL_ADDRESS, NETWORK, Host, network
from tests.waiting import until

API, S3, DATABASE_PORT = f"http://{LOCAL_ADDRESS}:4297/api", f"http://{LOCAL_ADDRESS}:5097", 5497
BUCKET = "artifacts"
POSTGRES = Path("/usr/lib/postgresql")
# setpriv ends unshare with this process; the namespace ends every process that the command has started.
TOGETHER = ("unshare", "--pid", "--ipc", "--mount-proc", "--fork", "--kill-child")
TO_THE_END_OF_THIS = ("setpriv", "--pdeathsig", "KILL")


@dataclass(frozen=True)
class Site:
    """The server's side, and the hosts."""

    home: Path
    hosts: tuple[Host, Host]
    environment: dict[str, str]  # for every client

    @property
    def store(self) -> str:
        return f"s3://{BUCKET}/tirflow"


@contextmanager
def site(root: Path) -> Iterator[Site]:
    """A running site. It is stopped and removed when the block ends."""
    hosts = tuple(Host(f"tirflow-{n}", f"{NETWORK}.{n + 1}", root / f"host{n}") for n in (1, 2))
    home = root / "server"
    home.mkdir(parents=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM to the tests cleans up
    environment = os.environ | _settings(home)
    prepared = Site(home, (hosts[0], hosts[1]), environment)
    with ExitStack() as stack:
        stack.enter_context(network(hosts))
        stack.enter_context(_postgres(root / "postgres"))
        for name, command, url in (
            ("s3", ["moto.server", "-H", LOCAL_ADDRESS, "-p", S3.rpartition(":")[2]], f"{S3}/moto-api/"),
            (
                "server",
                ["prefect", "server", "start", "--host", LOCAL_ADDRESS, "--port", "4297"],
                f"{API}/health",
            ),
        ):
            running = daemon([sys.executable, "-m", *command], environment, home / f"{name}.log")
            stack.enter_context(_ready(running, lambda url=url: _answers(url)))
        subprocess.run(
            [sys.executable, "-m", "flows.site", "process"], env=environment, check=True, capture_output=True
        )
        stack.enter_context(_worker(environment, home, "control", "control", ()))
        for host in hosts:
            host.home.mkdir()
            at_host = environment | {
                "TIRFLOW_HOME": str(host.home),
                "PREFECT_HOME": str(host.home / "prefect"),
            }
            inside = ("ip", "netns", "exec", host.name)
            stack.enter_context(_worker(at_host, host.home, "gpu", host.name, inside))
        yield prepared


def _settings(home: Path) -> dict[str, str]:
    """What `tirflow up` sets, with this site's addresses."""
    database = f"postgresql+asyncpg://postgres@127.0.0.1:{DATABASE_PORT}/postgres"
    return cluster.settings(home, 4297) | {
        "PREFECT_API_URL": API,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "TIRFLOW_STORE": f"s3://{BUCKET}/tirflow",
        "TIRFLOW_SHARED": str(home),
        "AWS_ENDPOINT_URL": S3,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def _postgres(directory: Path) -> Iterator[None]:
    """A server of its own, as the system's user `postgres`."""
    newest = sorted(POSTGRES.iterdir())[-1] / "bin"
    directory.mkdir()
    shutil.chown(directory, "postgres")
    for above in directory.parents:  # pytest's folders are closed to other users
        if os.stat(above).st_mode & 0o001 == 0:
            above.chmod(0o711)
    subprocess.run(
        [newest / "initdb", "--auth", "trust", "--no-sync", directory / "data"],
        user="postgres", check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    options = ["-p", str(DATABASE_PORT), "-k", str(directory), "-h", "127.0.0.1", "-F"]
    command = [str(newest / "postgres"), "-D", str(directory / "data"), *options]
    running = daemon(command, dict(os.environ), Path(f"{directory}.log"), user="postgres")
    ask = [str(newest / "pg_isready"), "-h", "127.0.0.1", "-p", str(DATABASE_PORT)]
    with _ready(running, lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0):
        yield


@contextmanager
def _worker(
    environment: dict[str, str], home: Path, pool: str, name: str, inside: tuple[str, ...]
) -> Iterator[None]:
    limit = ["--limit", "1"] if pool == "gpu" else []
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name, *limit]
    running = daemon(command, environment, home / "worker.log", inside)
    with _ready(running, lambda: _has_worker(pool, name)):
        yield


@contextmanager
def _ready(
    daemon: AbstractContextManager[subprocess.Popen[bytes]], is_ready: Callable[[], bool]
) -> Iterator[None]:
    """A daemon once it is ready. AssertionError if it exits before."""
    with daemon as process:
        until(lambda: process.poll() is not None or is_ready())
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}; see its log"
        yield


@contextmanager
def daemon(
    command: list[str],
    environment: dict[str, str],
    log_path: Path,
    inside: tuple[str, ...] = (),
    user: str = "root",
) -> Iterator[subprocess.Popen[bytes]]:
    """A process and all that it starts. They end with the block, or with this process if that is killed.

    `inside`: what puts it into a network namespace.
    """
    # The first process of a PID namespace must stay root's: a change of user undoes --kill-child.
    as_user = ("sh", "-c", f'setpriv --reuid {user} --regid {user} --init-groups "$@" & wait $!', "sh")
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*TO_THE_END_OF_THIS, *inside, *TOGETHER, *as_user, *command],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def is_online(host: Host) -> bool:
    """True if the server hears from the host's worker."""
    return _has_worker("gpu", host.name)


def _has_worker(pool: str, name: str) -> bool:
    workers = httpx.post(f"{API}/work_pools/{pool}/workers/filter", json={}, timeout=30).json()
    return any(worker["name"] == name and worker["status"] == "ONLINE" for worker in workers)
