"""Libraries, and honest programs with the same result under both stacks. Real servers."""

# ruff: noqa: E501 - programs are kept whole
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.shared.sandbox import Limits, SandboxSettings, Status
from tasks.shared.sandbox.records import PRELOAD
from tasks.shared.traces.observation import observe
from tests.integration.sandbox_modes import ROOT, Served, served

SETTINGS = SandboxSettings(limits=Limits(wall_s=120.0, cpu_s=60.0, memory_mb=1024), slots=3)


@pytest.fixture(scope="module", params=["root", "landlock"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(request.param, SETTINGS) as running:
        yield running


HONEST = {
    "scipy and pandas together": (
        "import scipy.optimize, scipy.stats, pandas\nprint(pandas.DataFrame({'a': [1, 2]}).sum().to_dict(), round(scipy.optimize.brentq(lambda x: x * x - 2, 0, 2), 6))",
        "{'a': 3} 1.414214"),
    "pictures for nobody": (
        "import os, matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nplt.savefig('x.png')\nprint(plt.get_backend(), os.path.getsize('x.png') > 1000)", "agg True"),
    "show prints nothing": ("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()", ""),
    "graph": ("import networkx as nx\nprint(nx.shortest_path_length(nx.path_graph(5), 0, 4))", "4"),
    "gmpy2, mpmath and sympy": ("import gmpy2, mpmath, sympy\nprint(gmpy2.isqrt(10**20), mpmath.mpf(2), sympy.factorint(360))", "10000000000 2.0 {2: 3, 3: 2, 5: 1}"),
    "progress bar for nobody": ("from tqdm import tqdm\nfor n in tqdm(range(3)): pass", ""),
    "version of a library": ("from importlib.metadata import version\nimport numpy\nprint(version('numpy') == numpy.__version__)", "True"),
    "thread pool": ("from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool: print(sum(pool.map(lambda n: n * n, range(20))))", "2470"),
    "asyncio in a thread": ("import asyncio\nasync def f(): return await asyncio.to_thread(lambda: 7)\nprint(asyncio.run(f()))", "7"),
    "temporary file": ("import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f: print(f.write('abc'))", "3"),
    "own directory by its full name": ("import os\nopen(os.path.join(os.getcwd(), 'x'), 'w').close()\nos.mkdir('d')\nos.chdir('d')\nos.rename('../x', 'y')\nprint(os.listdir('.'))", "['y']"),
    "large stack": ("import resource, sys, functools\nresource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY,) * 2)\nsys.setrecursionlimit(10**6)\n@functools.cache\ndef f(n): return n and f(n - 1) + 1\nprint(f(40000))", "40000"),
    "time zone": ("import zoneinfo\ntry: zoneinfo.ZoneInfo('Asia/Tokyo')\nexcept zoneinfo.ZoneInfoNotFoundError: print('none')", "none"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_program_is_answered_alike_in_both_stacks(name: str, sandbox: Served) -> None:
    code, expected = HONEST[name]
    result = sandbox.interpreter.run(code)
    assert (result.status, observe(result, "full")) == (Status.OK, expected), result


_FILES = "PermissionError: [Errno 13] Permission denied: a program has files in its own directory alone: "
_PROCESSES = "processes are limited to the program's own: it cannot start others"
REFUSED = {
    "writes outside": ("open('/tmp/x', 'w')", f"{_FILES}'/tmp/x'"),
    "writes outside by another way": ("import os\nos.mkdir('/var/tmp/x')", f"{_FILES}'/var/tmp/x'"),
    "table outside": ("import pandas\npandas.DataFrame({'a': [1]}).to_csv('/tmp/x.csv')", f"{_FILES}'/tmp/x.csv'"),
    "climbs out": ("open('../../x', 'w')", f"{_FILES}'../../x'"),
    "reads outside": ("import pathlib\npathlib.Path('/etc/passwd').read_text()", f"{_FILES}'/etc/passwd'"),
    "os.system": ("import os\nos.system('ls')", f"PermissionError: [Errno 1] os.system: {_PROCESSES}"),
    "os.popen": ("import os\nprint(os.popen('ls').read())", f"PermissionError: [Errno 1] subprocess.Popen: {_PROCESSES}"),
    "subprocess": ("import subprocess\nsubprocess.run(['ls'], check=True)", f"PermissionError: [Errno 1] subprocess.Popen: {_PROCESSES}"),
    "fork": ("import os\nos.fork()", f"PermissionError: [Errno 1] os.fork: {_PROCESSES}"),
    "multiprocessing.Pool": ("from multiprocessing import Pool\nwith Pool(2) as p: print(p.map(abs, [1]))", f"PermissionError: multiprocessing: {_PROCESSES}"),
    "process pool": ("from concurrent.futures import ProcessPoolExecutor\nwith ProcessPoolExecutor(2) as p: print(list(p.map(abs, [1])))", f"PermissionError: multiprocessing: {_PROCESSES}"),
    "socket": ("import socket\nsocket.socket()", "PermissionError: [Errno 1] socket.socket: there is no network"),
    "address of a page": (
        "import urllib.request\nurllib.request.urlopen('http://example.com')", "urllib.error.URLError: <urlopen error [Errno 1] socket.getaddrinfo: there is no network>"),
    "signal to another": ("import os\nos.kill(1, 9)", "PermissionError: [Errno 1] Operation not permitted: the sandbox refuses os.kill(1, 9)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_names_what_was_refused_in_one_line(name: str, sandbox: Served) -> None:
    code, line = REFUSED[name]
    result = sandbox.interpreter.run(code)
    assert (result.status, observe(result, "full")) == (Status.FORBIDDEN, line), result
    assert "refusals" not in result.error


LIMITED = {
    "threads": (
        "import threading\nfor n in range(50): threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "RuntimeError: can't start new thread: threads are limited to 8 a program"),
    "recursion": ("def f(n): return f(n + 1)\nf(0)", "RecursionError: maximum recursion depth exceeded"),
    "stack of C": (
        "import functools, sys\nsys.setrecursionlimit(10**9)\n@functools.cache\ndef f(n): return f(n + 1)\nf(0)",
        "RecursionError: the program's recursion is too deep for its stack (SIGSEGV)"),
    "stack of C in a thread": (
        "import functools, sys, threading\nsys.setrecursionlimit(10**9)\n@functools.cache\ndef f(n): return f(n + 1)\nt = threading.Thread(target=f, args=(0,))\nt.start()\nt.join()",
        "RecursionError: the program's recursion is too deep for its stack (SIGSEGV)"),
    "source for the parser": ("eval('-' * 100_000 + '1')", "RecursionError: the source is too deeply nested"),
    "own source for the parser": ("-" * 100_000 + "1", "RecursionError: the source is too deeply nested"),
    "crash of another kind": ("import ctypes\nctypes.string_at(0)", "RuntimeError: the program ended without a traceback (SIGSEGV)"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITED)
def test_limit_that_was_met_is_named(name: str, sandbox: Served) -> None:
    code, line = LIMITED[name]
    result = sandbox.interpreter.run(code)
    assert (result.status, result.error_line) == (Status.ERROR, line), result


def test_unlisted_packages_cannot_be_imported(sandbox: Served) -> None:
    """Otherwise pandas would print differently here than in the container, whose image lacks pyarrow."""
    code = "import pandas\nfor name in ('pyarrow', 'torch', 'pip', 'transformers'):\n    try: __import__(name)\n    except ModuleNotFoundError as e: print(e.name)"
    assert sandbox.interpreter.run(code).stdout == "pyarrow\ntorch\npip\ntransformers\n"


def test_heavy_libraries_are_preloaded_by_name() -> None:
    settings = replace(SETTINGS, preload=("math", "networkx"), workers=1)
    with served("root", settings) as sandbox:
        assert sandbox.interpreter.run("import networkx").status is Status.OK
        missing = sandbox.interpreter.run("import pandas")
        assert missing.error_line == "ModuleNotFoundError: No module named 'pandas'"


def test_image_of_the_sandbox_holds_what_recipes_preload() -> None:
    lock = {
        line.partition("==")[0].lower()
        for line in (Path(ROOT) / "images/locks/sandbox.txt").read_text().split()
    }
    assert set(PRELOAD) - {"math", "itertools", "fractions"} <= lock
