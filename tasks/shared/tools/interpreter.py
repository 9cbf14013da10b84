"""The interpreter of a recipe's `[sandbox]` section: started here, or reached at its address."""

import re
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
    """Open the tool that answers a stage's model. Only this function decides which tool that is."""
    with make_interpreter(config) as interpreter:
        yield interpreter


def make_interpreter(config: SandboxConfig) -> Interpreter:
    """Make an `Interpreter`, a context manager. Raises SandboxUnavailable, with the remedy, if it cannot isolate."""
    address = _address(config.address or sandbox_address())
    if address is not None and address.startswith("/") and not config.address:
        _wait_for(Path(address))
    return Interpreter(sandbox_settings(config), address=address)


def _wait_for(socket: Path) -> None:
    """Wait, for a limited time, until the interpreter that was started with this stage listens."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def sandbox_settings(config: SandboxConfig) -> SandboxSettings:
    """Return the section as settings of the interpreter."""
    return SandboxSettings(
        limits=limits_of(config),
        preload=config.preload,
        workers=config.workers,
        allow_unsafe=config.allow_unsafe,
        token_file=sandbox_token_file(),
    )


def limits_of(config: SandboxConfig) -> Limits:
    """Return the limits of one program."""
    return Limits(
        wall_s=config.wall_s, cpu_s=config.cpu_s, memory_mb=config.memory_mb, output_chars=config.output_chars
    )


def _address(setting: str) -> str | None:
    """Turn a recipe's unix:/path or tcp:host:port into the client's notation."""
    if not setting:
        return None
    scheme, _, rest = setting.partition(":")
    if scheme not in ("unix", "tcp") or not rest or (scheme == "tcp" and not re.search(r":\d+$", rest)):
        raise ValueError(f"sandbox.address = '{setting}': write unix:/path or tcp:host:port")
    return rest if scheme == "unix" else f"tcp://{rest.removeprefix('//')}"
