"""What goes into the interpreter and what comes out: limits, settings, status, result.

Frozen records without behaviour, shared by client, server and the stages. Lengths and units stand
in the names: `_s` seconds, `_mb` mebibytes, `_chars` characters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

MAX_OUTPUT_CHARS = 250_000
"""The most of `output_chars`: a result must fit into one message."""
PRELOAD = (
    *("sympy", "numpy", "mpmath", "gmpy2", "scipy", "pandas", "networkx", "matplotlib", "tqdm"),
    *("math", "itertools", "fractions"),
)
"""What models reach for; images/locks/sandbox.in names the same."""


SESSION_ENDED = "The session ended with this block: its variables are lost, the next block starts anew."


class SandboxUnavailable(RuntimeError):
    """The sandbox cannot start or cannot isolate here; the message says what is missing and the remedy."""


class Status(StrEnum):
    """How one program ended. Only SANDBOX_FAILURE is not the program's own doing."""

    OK = "ok"
    """The program ran to its end (or called exit with 0)."""
    ERROR = "error"
    """The program raised, exited with a code other than 0, or crashed."""
    TIMEOUT = "timeout"
    """The wall or CPU time ran out; what was printed before is in `stdout`."""
    OUT_OF_MEMORY = "out_of_memory"
    """The memory limit was reached and the program did not handle it."""
    OUTPUT_CUT = "output_cut"
    """The program ended well but printed more than `output_chars`: the middle is missing, and marked."""
    FORBIDDEN = "forbidden"
    """The program ended because it asked for something the sandbox refuses (network, processes, files)."""
    SANDBOX_FAILURE = "sandbox_failure"
    """The sandbox itself failed, after retries: an outage, never the model's error."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one program (or one block of a session) may take."""

    wall_s: float = 5.0
    """Elapsed time, less the time the program waited for a processor that others held (at most 10 x)."""
    cpu_s: float = 5.0
    """Processor time; enforced in whole seconds by the kernel, rounded up."""
    memory_mb: int = 512
    """Private writable memory beyond what the warm interpreter already holds; the stack has 64 MB of its own."""
    processes: int = 8
    """Threads of the program, itself included. Processes are always refused."""
    open_files: int = 64
    """Open descriptors."""
    output_chars: int = 4096
    """Characters that are shown of a program, its error included; more is cut in the middle, and marked."""
    disk_mb: int = 16
    """Size of the private directory, of any file in it, and of all that may be printed."""

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that is not positive or is too small to start the interpreter."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
                raise ValueError(f"sandbox limit {item.name} = {value!r}: give a positive number")
            if item.type == "int" and not isinstance(value, int):
                raise ValueError(f"sandbox limit {item.name} = {value!r}: give a whole number")
        if self.output_chars > MAX_OUTPUT_CHARS:
            raise ValueError(
                f"sandbox limit output_chars = {self.output_chars}: at most {MAX_OUTPUT_CHARS} can be handed back"
            )
        if self.open_files < 8:
            raise ValueError(f"sandbox limit open_files = {self.open_files}: at least 8 are needed")


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """One sandbox server and how its client treats it."""

    limits: Limits = field(default_factory=Limits)
    """Default limits; a call may give its own."""
    stateful: bool = False
    """True where the recipe wants one session per trajectory (read by the stages)."""
    preload: tuple[str, ...] = PRELOAD
    """Modules that programs can import besides the standard library, with what their distributions require, and nothing
    else. All but the heaviest (`libraries.ON_DEMAND`) are imported, and used once, before any program runs."""
    workers: int = 2
    """Worker processes, each with its own namespaces; about one a processor."""
    slots: int = 2
    """Programs that one worker runs at the same time; ready children wait in the free slots."""
    max_sessions: int = 1024
    """Living sessions at a time; fewer where the limits of open files or processes leave less room."""
    retries: int = 3
    """How often a program is run again after the sandbox failed under it."""
    isolation: str = "auto"
    """auto, namespaces (host), or landlock (container: no namespaces)."""
    allow_unsafe: bool = False
    """Run even where isolation is impossible. Shows in `health()` and in every result."""
    scratch_dirs: tuple[str, ...] = ()
    """Under landlock: private directories, each a tmpfs mount of its own. None: programs write nowhere."""
    token_file: str = ""
    """File that holds the token of a TCP server; empty for a Unix socket."""

    def __post_init__(self) -> None:
        """Raise ValueError for counts below 1, an unknown isolation, or a module name that is none."""
        for name, least in (("workers", 1), ("slots", 1), ("max_sessions", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"sandbox setting {name} = {getattr(self, name)}: at least {least}")
        if self.isolation not in ("auto", "namespaces", "landlock"):
            raise ValueError(f"sandbox setting isolation = {self.isolation!r}: auto, namespaces or landlock")
        for module in self.preload:
            if not all(part.isidentifier() for part in module.split(".")):
                raise ValueError(f"sandbox setting preload: {module!r} is not a module name")


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """What one program did."""

    status: Status
    stdout: str
    """Standard output, cut in the middle at `output_chars`. Paths of libraries begin at their package."""
    error: str
    """The traceback (of the program's own frames), or a line on the limit it met; empty when it ended well."""
    error_line: str
    """The last line of `error`."""
    seconds: float
    """From handing the program to its child until the child was seen to end."""
    peak_memory_mb: float
    """Peak resident memory, the shared warm interpreter (about 60 MB) included."""
    stderr: str = ""
    """What the program wrote to standard error, warnings for example; cut like `stdout`."""
    queue_s: float = 0.0
    """Time in the queue before it ran."""
    attempts: int = 1
    """Runs it took; more than 1 after a failure of the sandbox."""
    session_alive: bool | None = None
    """In a session: whether its variables live on. None outside one."""
    isolation: str = ""
    """The stack it ran under: namespaces, landlock or unsafe."""
    output_chars: int = MAX_OUTPUT_CHARS
    """The limit it ran under: the most that may be shown of it, its error included."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for the wire."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ExecutionResult:
        """The inverse of `to_json`. Raises TypeError or ValueError on values that are not a result."""
        return cls(**{**values, "status": Status(values["status"])})


def sandbox_failure(reason: str, attempts: int = 1) -> ExecutionResult:
    """The result of a call that the sandbox could not carry out."""
    line = f"SandboxFailure: {reason}"
    return ExecutionResult(Status.SANDBOX_FAILURE, "", line, line, 0.0, 0.0, attempts=attempts)
