"""Input and output of the interpreter: limits, settings, status, result.

Client, server and stages share these records. Units stand in the names: `_s` seconds, `_mb` mebibytes, `_chars`
characters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

MAX_OUTPUT_CHARS = 250_000
"""The largest `output_chars`, since a result must fit into one message."""
PRELOAD = (
    *("sympy", "numpy", "mpmath", "gmpy2", "scipy", "pandas", "networkx", "matplotlib", "tqdm"),
    *("math", "itertools", "fractions"),
)
"""Modules that models often use. images/locks/sandbox.in names the same."""

SESSION_ENDED = "The session ended with this block: its variables are lost, the next block starts anew."


class SandboxUnavailable(RuntimeError):
    """The sandbox cannot start or cannot isolate here; the message says what is missing and the remedy."""


class Status(StrEnum):
    """How one program ended. Only SANDBOX_FAILURE is not caused by the program."""

    OK = "ok"
    """The program ran to its end (or called exit with 0)."""
    ERROR = "error"
    """The program raised, exited with a code other than 0, or crashed."""
    TIMEOUT = "timeout"
    """The wall or CPU time ran out. `stdout` has what was printed before."""
    OUT_OF_MEMORY = "out_of_memory"
    """The memory limit was reached and the program did not handle it."""
    OUTPUT_CUT = "output_cut"
    """The program ended well but printed more than `output_chars`. A mark replaces the middle."""
    FORBIDDEN = "forbidden"
    """The program ended because of a request that the sandbox refuses (network, processes, files)."""
    SANDBOX_FAILURE = "sandbox_failure"
    """The sandbox failed, after retries: an outage, never the model's error."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one program (or one block of a session) may take."""

    wall_s: float = 5.0
    """Elapsed time without waits for a processor that other programs held (at most 10 times the limit)."""
    cpu_s: float = 5.0
    """Processor time of all threads together."""
    memory_mb: int = 512
    """Private writable memory beyond that of the warm interpreter. The stack has 64 MB of its own."""
    processes: int = 8
    """Threads of the program, including the main thread. Processes are always refused."""
    open_files: int = 64
    """Open descriptors."""
    output_chars: int = 4096
    """Characters that are shown of a program, including its error. A mark replaces the middle of longer output."""
    disk_mb: int = 16
    """Size of the private directory, of each file in it, and of the output."""

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that is not positive, or with which the interpreter cannot start."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
                raise ValueError(f"sandbox limit {item.name} = {value!r}: give a positive number")
            if item.type == "int" and not isinstance(value, int):
                raise ValueError(f"sandbox limit {item.name} = {value!r}: give a whole number")
        if self.output_chars > MAX_OUTPUT_CHARS:
            raise ValueError(
                f"sandbox limit output_chars = {self.output_chars}: at most {MAX_OUTPUT_CHARS} can be returned"
            )
        if self.open_files < 8:
            raise ValueError(f"sandbox limit open_files = {self.open_files}: at least 8 are needed")


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Settings of a sandbox server and its client."""

    limits: Limits = field(default_factory=Limits)
    """Default limits. A call may give its own."""
    preload: tuple[str, ...] = PRELOAD
    """Modules that programs can import besides the standard library, with all that their distributions require. All but
    the heaviest (`libraries.ON_DEMAND`) are imported, and used once, before any program runs."""
    workers: int = 2
    """Worker processes, each with its own namespaces. About one per processor."""
    slots: int = 2
    """Programs that one worker runs at the same time. Ready children wait in the free slots."""
    max_sessions: int = 1024
    """Living sessions at a time. Limits of open files or processes may leave room for fewer."""
    retries: int = 3
    """How often a program runs again after a failure of the sandbox."""
    isolation: str = "auto"
    """auto, namespaces (host), or landlock (container without namespaces)."""
    allow_unsafe: bool = False
    """Run programs even where isolation is impossible. `health()` and every result show it."""
    scratch_dirs: tuple[str, ...] = ()
    """Under landlock: private directories, each a tmpfs mount of its own. Without them programs cannot write."""
    token_file: str = ""
    """File with the token of a TCP server; empty for a Unix socket."""

    def __post_init__(self) -> None:
        """Raise ValueError for counts below 1, an unknown isolation, or an invalid module name."""
        for name, least in (("workers", 1), ("slots", 1), ("max_sessions", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"sandbox setting {name} = {getattr(self, name)}: at least {least}")
        if self.isolation not in ("auto", "namespaces", "landlock"):
            raise ValueError(f"sandbox setting isolation = {self.isolation!r}: auto, namespaces or landlock")
        for module in self.preload:
            if not all(part.isidentifier() for part in module.split(".")):
                raise ValueError(f"sandbox setting preload: {module!r} is not a module name")

    @classmethod
    def from_json(cls, text: str | bytes) -> SandboxSettings:
        """Read settings from JSON; those left out have their defaults. Raises ValueError or TypeError."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("sandbox settings must be an object")
        if unknown := set(values) - {item.name for item in fields(cls)}:
            raise ValueError(f"unknown sandbox settings {sorted(unknown)}")
        values["limits"] = Limits(**values.get("limits", {}))
        for name in {"preload", "scratch_dirs"} & values.keys():
            values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """The result of one program or block."""

    status: Status
    stdout: str
    """Standard output, cut in the middle at `output_chars`. Paths of libraries begin at their package."""
    error: str
    """The traceback of the program's own frames, or a line on the limit it met; empty when it ended well."""
    error_line: str
    """The last line of `error`."""
    seconds: float
    """From handing the program to its child until the end of the child was seen."""
    peak_memory_mb: float
    """Peak resident memory, including that of the shared warm interpreter (about 60 MB)."""
    stderr: str = ""
    """What the program wrote to standard error, such as warnings; cut like `stdout`."""
    queue_s: float = 0.0
    """Seconds in the queue before it ran."""
    attempts: int = 1
    """Number of runs; more than 1 after a failure of the sandbox."""
    session_alive: bool | None = None
    """Whether the variables of its session live on. None outside a session."""
    isolation: str = ""
    """The isolation it ran under: namespaces, landlock or unsafe."""
    output_chars: int = MAX_OUTPUT_CHARS
    """Its limit for the characters shown of it, including its error."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ExecutionResult:
        """Invert `asdict`. Raises TypeError or ValueError for values that are not a result."""
        return cls(**{**values, "status": Status(values["status"])})


def without_output(status: Status, error: str, seconds: float = 0.0, **fields: Any) -> ExecutionResult:
    """Return a result that has an error and no output."""
    return ExecutionResult(status, "", error, error.rpartition("\n")[2], seconds, 0.0, **fields)


def sandbox_failure(reason: str, **fields: Any) -> ExecutionResult:
    """Return the result of a call that the sandbox could not carry out."""
    return without_output(Status.SANDBOX_FAILURE, f"SandboxFailure: {reason}", **fields)
