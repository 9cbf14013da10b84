"""The interpreter that a recipe's `[sandbox]` section asks for: started here, or reached at its address."""

from tasks.shared.config import SandboxConfig
from tasks.shared.environment import sandbox_address, sandbox_token_file
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings


def make_interpreter(config: SandboxConfig) -> Interpreter:
    """An `Interpreter` to be used as a context manager; SandboxUnavailable, with the remedy, if it cannot isolate."""
    return Interpreter(sandbox_settings(config), address=_address(config.address or sandbox_address()))


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
