"""Run the server: bind the port and check the key, load the checkpoint, then answer until a signal comes."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from tasks.serve.request import ServeRequest
from tasks.serve.resident import Resident, open_resident
from tasks.serve.server import make_app
from tasks.shared.contract.environment import serve_key

LOOK_S = 0.5
KEEP_S = 75  # idle connections stay longer than clients keep them, so that none closes while it is used
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(request: ServeRequest) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns 1 if the engine stopped by itself.

    Raises ValueError, before anything is loaded, if the port is taken or if others could reach a server without a key.
    """
    key = serve_key()
    if not key and request.host not in LOOPBACK:
        raise ValueError(
            f"--host {request.host} can be reached by others, and no key is set: export TIRFLOW_API_KEY=..., "
            "or leave --host out"
        )
    with listening_socket(request.host, request.port) as listener:
        port = listener.getsockname()[1]
        sys.stdout.write(f"loading {request.name}\n")
        sys.stdout.flush()
        with open_resident(request) as resident:
            config = uvicorn.Config(
                make_app(resident, request, key),
                log_level="warning",
                access_log=False,
                timeout_keep_alive=KEEP_S,
                timeout_graceful_shutdown=max(1, round(request.serve.end_seconds)),
            )
            access = "asks for the key" if key else "asks for no key"
            host = f"[{request.host}]" if ":" in request.host else request.host
            sys.stdout.write(f"serving {request.name} on http://{host}:{port}, {access}\n")
            sys.stdout.flush()
            return asyncio.run(_run(Server(config), listener, resident))


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to `_run`; uvicorn would raise them again after a clean end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signal."""
        yield


async def _run(server: Server, listener: socket.socket, resident: Resident) -> int:
    """Serve until a signal comes or the engine ends. Requests under way are answered first."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not serving.done():
        await asyncio.wait({serving}, timeout=LOOK_S)
        if resident.failed is not None:
            server.should_exit = True
    if resident.failed is not None:
        sys.stderr.write(f"error: the engine has stopped: {resident.failed}\n")
        return 1
    return 0


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket. Raises ValueError if the port is taken or the address is not this machine's."""
    v6 = ":" in host
    family = socket.AF_INET6 if v6 else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=socket.SOMAXCONN, dualstack_ipv6=v6)
    except OSError as error:
        cause = str(error.strerror).partition(" (while")[0]
        raise ValueError(f"cannot use port {port} on {host} ({cause}): give another with --port") from None
