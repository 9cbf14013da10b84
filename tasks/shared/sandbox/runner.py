"""The work of a child: wait for one program, set its limits, run it exactly as written, report, end.

A child holds nothing but the warm interpreter and its program. Its exit code says how the program ended, and the
traceback goes back over the channel. A program can forge both, which affects its own result only.
"""

from __future__ import annotations

import atexit
import io
import linecache
import os
import random
import resource
import socket
import struct
import sys
import threading
import traceback
import types
from typing import NoReturn

from tasks.shared.sandbox import refusals
from tasks.shared.sandbox.confinement import limit_resources
from tasks.shared.sandbox.threads import limit_threads

EXIT_OK, EXIT_ERROR, EXIT_MEMORY, EXIT_FORBIDDEN, EXIT_NO_DESCRIPTORS = 0, 1, 2, 3, 93
REQUEST = struct.Struct("=QIIQIB")
"""Memory bytes beyond the warm interpreter, open files, threads, file bytes, code bytes, stateful."""
BLOCK_REPORT = struct.Struct("=BQ")
"""Head of a session's report on a block: exit code, peak resident bytes; the traceback follows."""
CONFINED, STARTED = b"C", b"S"
"""A child's first message, to its worker; and its message to the broker when its program begins."""
REPORT_CHARS = 16_384
_SEED = 0


def serve(channel: socket.socket, libraries: frozenset[str], warm_bytes: int, has_own_user: bool) -> NoReturn:
    """Run one program from the channel, or the blocks of a session until it is closed.

    `libraries` are paths that it may read, `warm_bytes` the data of the warm interpreter, which does not count against
    it. With a user of its own the kernel counts its threads apart from those of other programs.
    """
    program = types.ModuleType("__main__")
    sys.addaudithook(refusals.make_hook(os.getcwd(), libraries))
    blocks = 0
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, REQUEST.size, 3)
        if len(message) != REQUEST.size:
            os._exit(EXIT_OK)  # the broker closed the channel
        if len(descriptors) != 3:
            os._exit(EXIT_NO_DESCRIPTORS)
        memory, files, threads, file_bytes, size, stateful = REQUEST.unpack(message)
        source_fd = descriptors.pop()
        source = os.pread(source_fd, size, 0)
        os.close(source_fd)
        for target, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, target)
            os.close(descriptor)
        if not blocks:
            sys.modules["__main__"] = program
            random.seed(_SEED)  # every program starts with the same random state
            try:
                limit_resources(memory, warm_bytes, files, file_bytes)
                limit_threads(threads, has_own_user)
            except (OSError, ValueError) as error:
                channel.send(f"its limits cannot be set: {error}".encode())
                os._exit(EXIT_ERROR)
            channel.send(STARTED)
        blocks += 1
        name = f"block_{blocks}.py" if stateful else "main.py"
        code, text = run_program(source, name, program.__dict__, threads)
        if not stateful:
            _end(channel, code, text)
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        channel.send(BLOCK_REPORT.pack(code, peak_kb << 10) + text.encode("utf-8", "replace"))


def standard_streams() -> None:
    """Open unbuffered text streams on descriptors 1 and 2, so that nothing printed is lost. Called once."""
    for name, descriptor, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        raw = io.FileIO(descriptor, "w", closefd=False)
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors=errors, write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run_program(source: bytes, name: str, namespace: dict[str, object], threads: int) -> tuple[int, str]:
    """Compile and run. Returns the exit code and the text of the traceback."""
    text = source.decode("utf-8", "replace")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    try:
        exec(compile(source, name, "exec", dont_inherit=True), namespace)
        _flush_output()
    except BaseException as error:  # noqa: BLE001 - the program is untrusted: whatever it raises is its result
        return _describe(error, threads)
    return EXIT_OK, ""


def _describe(error: BaseException, threads: int) -> tuple[int, str]:
    """Return the exit code and the traceback of a program's exception, without this module's frames."""
    code = EXIT_ERROR
    if isinstance(error, SystemExit):
        if error.code is None or error.code == 0:
            return EXIT_OK, ""
    elif isinstance(error, MemoryError):
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    try:
        refusals.drop_own_frames(error, id(globals()))
        if isinstance(error, MemoryError) and not refusals.is_of_the_parser(error):
            code = EXIT_MEMORY
        elif refusals.is_refusal(error):
            code = EXIT_FORBIDDEN
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        text = refusals.explain(error, text, threads)
    except BaseException as second:  # noqa: BLE001 - this runs the program's own __str__, and may run out of memory
        text = f"{type(error).__name__}: (its message could not be made: {type(second).__name__})"
    if len(text) > REPORT_CHARS:
        text = f"{text[: REPORT_CHARS // 2]}\n... [traceback cut] ...\n{text[-REPORT_CHARS // 2 :]}"
    return code, text


def _flush_output() -> None:
    """Write what a stream buffers that the program put in place of standard output. As in Python, it may be closed."""
    if sys.stdout is not None and not getattr(sys.stdout, "closed", False):
        sys.stdout.flush()


def _end(channel: socket.socket, code: int, text: str) -> NoReturn:
    """Report, then end as the interpreter does: join threads, run exit handlers, flush."""
    if text:
        channel.send(text.encode("utf-8", "replace"))
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _flush_output()
    finally:  # as in Python, an error in the program's exit handlers does not change its result
        os._exit(code)
