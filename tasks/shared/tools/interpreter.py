"""The interpreter that a recipe's `[sandbox]` section asks for: started here, or reached at its address."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.shared.config import SandboxConfig
from tasks.shared.contract.environment import sandbox_address, sandbox_token_file
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings
from tasks.shared.tools.protocol import Tool

START_TIMEOUT_S = 60.0


@contextmanager
def open_tool(config: SandboxConfig) -> Iterator[Tool]:
    """What answers the calls of a stage's model, until the end of the block. The one place that knows which."""
    with make_interpreter(config) as interpreter:
        yield interpreter


def make_interpreter(config: SandboxConfig) -> Interpreter:
    """An `Interpreter` to be used as a context manager; SandboxUnavailable, with the remedy, if it cannot isolate."""
    address = _address(config.address or sandbox_address())
    if address is not None and address.startswith("/") and not config.address:
        _wait_for(Path(address))
    return Interpreter(sandbox_settings(config), address=address)


def _wait_for(socket: Path) -> None:
    """Return once the interpreter beside this stage, which was started with it, listens; or has had its time."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def sandbox_settings(config: SandboxConfig) -> SandboxSettings:
    """The section as the interpreter service takes it."""
    return SandboxSettings(
        limits=limits_of(config),
        stateful=config.stateful,
        preload=config.preload,
        workers=config.workers,
        allow_unsafe=config.allow_unsafe,
        token_file=sandbox_token_file(),
    )


def limits_of(config: SandboxConfig) -> Limits:
    """What one program may take."""
    return Limits(
        wall_s=config.wall_s,
        cpu_s=config.cpu_s,
        memory_mb=config.memory_mb,
        output_chars=config.output_chars,
    )


def _address(written: str) -> str | None:
    """unix:/path and tcp:host:port, as recipes write them, in the client's notation."""
    if not written:
        return None
    scheme, _, rest = written.partition(":")
    if scheme not in ("unix", "tcp") or not rest:
        raise ValueError(f"sandbox.address = '{written}': write unix:/path or tcp:host:port")
    return rest if scheme == "unix" else f"tcp://{rest.removeprefix('//')}"
