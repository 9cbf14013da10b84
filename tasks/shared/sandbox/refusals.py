"""Says in words what the sandbox refuses: an audit hook raises before the kernel would, with the name of what it was.

Words only: what is refused is refused by the kernel too. The hook makes one thing of what the kernel answers in several
ways (no such file here, permission denied there, a silent -1 of `os.system`), so that a program sees the same on a host
and in a container.
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
_STARTS = ("os.system", "subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn")
_CALLS = (
    "getaddrinfo",
    "gethostbyname",
    "gethostbyaddr",
    "getnameinfo",
    "connect",
    "bind",
    "sendto",
    "sendmsg",
)
_ON_PATH = (
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.truncate",
)
_ON_PATHS = ("os.rename", "os.link")
_ALSO_READABLE = ("/dev/null", "/dev/urandom")
_AF_UNIX, _AF_OF_DESCRIPTOR = 1, -1
_SEGMENT_CHARS = 80
_CHAIN = 50

Hook = Callable[[str, tuple[object, ...]], None]


def make_hook(directory: str, libraries: frozenset[str]) -> Hook:
    """The audit hook of a program that runs in `directory` and may read the libraries, by any of these names."""
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

    def check_first(path: object = None, *rest: object) -> None:
        check(path)

    def check_both(first: object, second: object, *rest: object) -> None:
        check(first)
        check(second)

    def check_socket(_: object, family: object, *rest: object) -> None:
        if family not in (_AF_UNIX, _AF_OF_DESCRIPTOR):
            raise PermissionError(errno.EPERM, f"socket.socket: {_NETWORK}")

    def refuse(what: str, why: str) -> Callable[..., None]:
        def raise_it(*arguments: object) -> None:
            raise PermissionError(errno.EPERM, f"{what}: {why}")

        return raise_it

    answers: dict[str, Callable[..., None]] = {name: refuse(name, _PROCESSES) for name in _STARTS}
    answers |= {f"socket.{name}": refuse(f"socket.{name}", _NETWORK) for name in _CALLS}
    answers["socket.__new__"] = check_socket
    answers |= dict.fromkeys(_ON_PATH, check_first)
    answers |= dict.fromkeys(_ON_PATHS, check_both)
    answers["os.symlink"] = lambda source, target, *rest: check(target)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        answer = answers.get(event)
        if answer is not None:
            answer(*arguments)

    return hook


def is_refusal(error: BaseException) -> bool:
    """Whether the program ended because something was refused; what hides it in an OSError of its own counts too."""
    if not isinstance(error, OSError):
        return False
    hidden = error.__dict__.get("reason") if type(error).__module__ == "urllib.error" else None
    for link in (error, error.__cause__, hidden):
        if isinstance(link, PermissionError) and link.errno in (errno.EPERM, errno.EACCES):
            return True
    return _innermost_module(error).startswith("multiprocessing.")


def drop_own_frames(error: BaseException, runner: int) -> None:
    """Take the first frames, of the runner (the id of its globals), and the last, of the hook, out of tracebacks."""
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
    """An exception and those that led to it."""
    found, waiting = list[BaseException](), [error]
    while waiting and len(found) < _CHAIN:
        link = waiting.pop()
        if not any(link is one for one in found):
            found.append(link)
            waiting += [led for led in (link.__cause__, link.__context__) if led is not None]
    return found


def is_of_the_parser(error: MemoryError) -> bool:
    """Whether it is how the parser says that a source is too deeply nested: it came up where one is compiled."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    return frames is None or _expression(frames).startswith(("eval(", "exec(", "compile("))


def explain(error: BaseException, text: str, threads: int) -> str:
    """The traceback's text, whose last line says what was refused or which limit was met, if it does not yet."""
    if isinstance(error, MemoryError) and is_of_the_parser(error):
        return f"{text.rstrip().removesuffix('MemoryError')}RecursionError: the source is too deeply nested\n"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return f"{text.rstrip()}: threads are limited to {threads} a program\n"
    if not is_refusal(error) or any(words in str(error) for words in (_PROCESSES, _NETWORK, _FILES)):
        return text
    if _innermost_module(error).startswith("multiprocessing."):
        return f"{text.rstrip()}\nPermissionError: multiprocessing: {_PROCESSES}\n"
    segment = _call_that_failed(error.__traceback__)
    return f"{text.rstrip()}: the sandbox refuses {segment}\n" if segment else text


def _innermost_module(error: BaseException) -> str:
    name, frames = "", error.__traceback__
    while frames is not None:
        name = str(frames.tb_frame.f_globals.get("__name__", ""))
        frames = frames.tb_next
    return name


def _call_that_failed(frames: TracebackType | None) -> str:
    """The program's own expression under which the error came up, if it stands in one line."""
    found = ""
    while frames is not None:
        if frames.tb_frame.f_globals.get("__name__") == "__main__":
            found = _expression(frames)[:_SEGMENT_CHARS]
        frames = frames.tb_next
    return found


def _expression(frame: TracebackType) -> str:
    """What the frame was at, if it stands in one line."""
    code = frame.tb_frame.f_code
    first, last, start, end = list(code.co_positions())[frame.tb_lasti // 2]
    if first is None or first != last:
        return ""
    line = linecache.getline(code.co_filename, first).encode("utf-8", "replace")
    return line[start:end].decode("utf-8", "replace")
