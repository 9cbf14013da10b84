"""Explains refusals: an audit hook raises an error that names the call, before the kernel refuses it.

The hook only explains, since the kernel refuses the same calls. But the kernel's answers vary (no such file, permission
denied, or a silent -1 from `os.system`). With the hook a program sees the same on a host and in a container.
"""

from __future__ import annotations

import errno
import linecache
import os
from collections.abc import Callable
from types import TracebackType

_PROCESSES = "processes are limited to the program's own: it cannot start others"
_NETWORK = "there is no network"
_FILES = "Permission denied: a program has files in its own directory alone"
_STARTS = "os.system subprocess.Popen os.fork os.forkpty os.exec os.posix_spawn os.spawn"
_CALLS = "getaddrinfo gethostbyname gethostbyaddr getnameinfo connect bind sendto sendmsg"
_REFUSED = dict.fromkeys(_STARTS.split(), _PROCESSES) | {
    f"socket.{call}": _NETWORK for call in _CALLS.split()
}
"""Events that are always refused, and why."""
_ON_PATH = "open os.listdir os.scandir os.mkdir os.rmdir os.remove os.truncate"
_PATHS = {
    **dict.fromkeys(_ON_PATH.split(), slice(1)),
    "os.rename": slice(2),
    "os.link": slice(2),
    "os.symlink": slice(1, 2),
}
"""Events on paths, and which arguments these are."""
_ALSO_READABLE = ("/dev/null", "/dev/urandom")
_AF_UNIX, _AF_OF_DESCRIPTOR = 1, -1
_EXPRESSION_CHARS = 80
_MAX_CHAIN = 50


def make_hook(directory: str, libraries: frozenset[str]) -> Callable[[str, tuple[object, ...]], None]:
    """Make the audit hook of a program that runs in `directory` and may read the libraries under these paths."""
    inside = tuple(f"{path.rstrip('/')}/" for path in (directory, *libraries))
    exact = {*libraries, *_ALSO_READABLE, directory}

    def check(path: object) -> None:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str) or (not path.startswith("/") and ".." not in path):
            return
        full = os.path.abspath(path)
        if full not in exact and not full.startswith(inside):
            raise PermissionError(errno.EACCES, _FILES, path)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _PATHS:
            for path in arguments[_PATHS[event]]:
                check(path)
        elif event in _REFUSED:
            raise PermissionError(errno.EPERM, f"{event}: {_REFUSED[event]}")
        elif event == "socket.__new__" and arguments[1] not in (_AF_UNIX, _AF_OF_DESCRIPTOR):
            raise PermissionError(errno.EPERM, f"socket.socket: {_NETWORK}")

    return hook


def is_refusal(error: BaseException) -> bool:
    """Whether a refusal ended the program, including one that a library wraps in an OSError of its own."""
    if not isinstance(error, OSError):
        return False
    wrapped = error.__dict__.get("reason") if type(error).__module__ == "urllib.error" else None
    for link in (error, error.__cause__, wrapped):
        if isinstance(link, PermissionError) and link.errno in (errno.EPERM, errno.EACCES):
            return True
    return _is_of_multiprocessing(error)


def drop_own_frames(error: BaseException, runner: int) -> None:
    """Remove the first frames, of the runner (`runner` is the id of its globals), and the last, of the hook."""
    own = (runner, id(globals()))
    for link in _chain(error):
        frames = link.__traceback__
        while frames is not None and id(frames.tb_frame.f_globals) in own:
            frames = frames.tb_next
        link.__traceback__ = frames
        while frames is not None and frames.tb_next is not None:
            if id(frames.tb_next.tb_frame.f_globals) in own:
                frames.tb_next = None
                break
            frames = frames.tb_next


def _chain(error: BaseException) -> list[BaseException]:
    """List an exception and those that led to it."""
    found, waiting = list[BaseException](), [error]
    while waiting and len(found) < _MAX_CHAIN:
        link = waiting.pop()
        if not any(link is one for one in found):
            found.append(link)
            waiting += [cause for cause in (link.__cause__, link.__context__) if cause is not None]
    return found


def is_of_the_parser(error: MemoryError) -> bool:
    """Whether the parser raised it for source that is too deeply nested: it comes from a call that compiles."""
    frames = _frames(error)
    return not frames or _expression(frames[-1]).startswith(("eval(", "exec(", "compile("))


def explain(error: BaseException, text: str, threads: int) -> str:
    """Complete the text of a traceback, so that its last line names the refusal or the limit."""
    if isinstance(error, MemoryError) and is_of_the_parser(error):
        return f"{text.rstrip().removesuffix('MemoryError')}RecursionError: the source is too deeply nested\n"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return f"{text.rstrip()}: threads are limited to {threads} a program\n"
    if not is_refusal(error) or any(words in str(error) for words in (_PROCESSES, _NETWORK, _FILES)):
        return text
    if _is_of_multiprocessing(error):
        return f"{text.rstrip()}\nPermissionError: multiprocessing: {_PROCESSES}\n"
    own = [frame for frame in _frames(error) if frame.tb_frame.f_globals.get("__name__") == "__main__"]
    expression = _expression(own[-1])[:_EXPRESSION_CHARS] if own else ""
    return f"{text.rstrip()}: the sandbox refuses {expression}\n" if expression else text


def _frames(error: BaseException) -> list[TracebackType]:
    """List the frames of a traceback, the innermost last."""
    frames, frame = [], error.__traceback__
    while frame is not None:
        frames.append(frame)
        frame = frame.tb_next
    return frames


def _is_of_multiprocessing(error: BaseException) -> bool:
    frames = _frames(error)
    return bool(frames) and str(frames[-1].tb_frame.f_globals.get("__name__")).startswith("multiprocessing.")


def _expression(frame: TracebackType) -> str:
    """Return the expression that the frame was executing, if it is on one line."""
    code = frame.tb_frame.f_code
    first, last, start, end = list(code.co_positions())[frame.tb_lasti // 2]
    if first is None or first != last:
        return ""
    line = linecache.getline(code.co_filename, first).encode("utf-8", "replace")
    return line[start:end].decode("utf-8", "replace")
