"""The interpreter that a recipe's `[sandbox]` section asks for: started here, or reached at its address."""

from tasks.shared.config import SandboxConfig
from tasks.shared.environment import sandbox_token
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings


def make_interpreter(config: SandboxConfig) -> Interpreter:
    """An `Interpreter` to be used as a context manager; SandboxUnavailable, with the remedy, if it cannot isolate."""
    settings = SandboxSettings(
        limits=Limits(
            wall_s=config.wall_s,
            cpu_s=config.cpu_s,
            memory_mb=config.memory_mb,
            output_chars=config.output_chars,
        ),
        stateful=config.stateful,
        preload=config.preload,
        workers=config.workers,
        allow_unsafe=config.allow_unsafe,
    )
    return Interpreter(settings, address=config.address or None, token=sandbox_token())
