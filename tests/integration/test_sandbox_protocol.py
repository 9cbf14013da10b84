"""The server's protocol: malformed, huge, truncated, slow and concurrent requests; tokens; withdrawals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.shared.sandbox import (
    Interpreter,
    Limits,
    SandboxClient,
    SandboxSettings,
    SandboxUnavailable,
    Status,
)
from tasks.shared.sandbox.client import RequestRefused
from tasks.shared.sandbox.protocol import MAX_FRAME
from tests.waiting import until

HELLO = {"op": "hello", "version": 1, "token": ""}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(-5, 2**70) | JSON,
        "op": st.sampled_from(["run", "open_session", "close_session", "health", "hello", "shutdown"]) | JSON,
        "code": st.just("print(1)") | st.text(max_size=60) | JSON,
        "session": st.text(max_size=40) | JSON,
        "limits": st.dictionaries(st.sampled_from(["wall_s", "cpu_s", "memory_mb", "x"]), JSON, max_size=3)
        | JSON,
    },
)
FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def frame(message: object) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


@pytest.fixture(scope="module")
def server() -> Iterator[Interpreter]:
    with Interpreter(SandboxSettings(workers=1, preload=("math",))) as running:
        yield running


def connect(server: Interpreter) -> socket.socket:
    wire = socket.socket(socket.AF_UNIX)
    wire.settimeout(10)
    wire.connect(server.address)
    return wire


def answers(wire: socket.socket) -> list[dict[str, Any]]:
    """All messages until the server closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := wire.recv(65536):
            data += chunk
    found = []
    while data:
        (length,) = struct.unpack_from(">I", data)
        found.append(json.loads(data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def still_serves(server: Interpreter) -> bool:
    return server.run("print(1 + 1)").stdout == "2\n"


@FUZZ
@given(st.binary(min_size=1, max_size=300))
def test_bytes_without_hello(server: Interpreter, data: bytes) -> None:
    with connect(server) as wire:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            wire.sendall(data)
            wire.shutdown(socket.SHUT_WR)
        for message in answers(wire):
            assert message["id"] is None
            assert message["error"]
    assert still_serves(server)


@FUZZ
@given(st.lists(FIELDS, min_size=1, max_size=6))
def test_messages_after_hello(server: Interpreter, messages: list[dict[str, Any]]) -> None:
    """Each request is answered under its id, or the connection ends with the reason."""
    with connect(server) as wire:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            wire.sendall(frame(HELLO) + b"".join(frame(message) for message in messages))
            wire.sendall(frame({"id": 77, "op": "health"}))
        seen: list[dict[str, Any]] = []
        reader = wire.makefile("rb")
        reset = False
        try:
            while (head := reader.read(4)) and len(head) == 4:
                seen.append(json.loads(reader.read(struct.unpack(">I", head)[0])))
                if seen[-1]["id"] == 77 and "ok" in seen[-1] and "uptime_s" in seen[-1]["ok"]:
                    break
        except ConnectionResetError:  # the server closed with unread bytes, which may discard its reason
            reset = True
        reader.close()
        if not reset:
            assert seen[0]["ok"]["isolation"] == "namespaces"
            ended = seen[-1]
            assert ended["id"] == 77 or (ended["id"] is None and ended["error"])
    assert still_serves(server)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack(">I", MAX_FRAME + 1), "announced"),
        (struct.pack(">I", 0xFFFFFFFF), "announced"),
        (struct.pack(">I", 3) + b"{a}", "not JSON"),
        (struct.pack(">I", 2) + b"[]", "not an object"),
        (struct.pack(">I", 2) + b"\xff\xfe", "not JSON"),
        (struct.pack(">I", 200_000) + b"[" * 200_000, "not JSON"),
        (frame({"op": "run", "id": 1, "code": "print(1)"}), "first message must be hello"),
        (frame({"op": "hello", "version": 99}), "version 1"),
        (frame(HELLO) + frame({"id": "one", "op": "run"}), "whole number"),
    ],
)
def test_unreadable_request_is_answered_with_the_reason(
    server: Interpreter, data: bytes, reason: str
) -> None:
    before = server.health()["bad_requests"]
    with connect(server) as wire:
        wire.sendall(data)
        last = answers(wire)[-1]
    assert reason in last["error"]
    assert server.health()["bad_requests"] == before + 1


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"op": "run", "code": 5}, "code must be a string"),
        ({"op": "run"}, "code must be a string"),
        ({"op": "run", "code": "x" * (2 << 20)}, "at most 1048576"),
        ({"op": "run", "code": "1", "session": "guess"}, "no such session"),
        ({"op": "run", "code": "1", "limits": {"wall": 3}}, "limits must be an object of"),
        ({"op": "run", "code": "1", "limits": {"wall_s": -3}}, "wall_s = -3: give a positive number"),
        ({"op": "run", "code": "1", "limits": {"wall_s": "soon"}}, "give a positive number"),
        ({"op": "run", "code": "1", "limits": {"memory_mb": 1.5}}, "whole number"),
        ({"op": "run", "code": "1", "limits": {"wall_s": True}}, "positive number"),
        ({"op": "run", "code": "1", "limits": {"disk_mb": 4000}}, "this server allows 16"),
        ({"op": "close_session"}, "no such session"),
        ({"op": "reboot"}, "unknown op"),
    ],
)
def test_unacceptable_request_leaves_the_connection_usable(
    server: Interpreter, request_: dict[str, Any], reason: str
) -> None:
    with connect(server) as wire:
        wire.sendall(
            frame(HELLO) + frame({"id": 1, **request_}) + frame({"id": 2, "op": "run", "code": "print(3)"})
        )
        reader = wire.makefile("rb")
        seen = {}
        while len(seen) < 3:
            (length,) = struct.unpack(">I", reader.read(4))
            message = json.loads(reader.read(length))
            seen[message["id"]] = message
    assert reason in seen[1]["error"]
    assert seen[2]["ok"]["stdout"] == "3\n"


def test_largest_result_fits_into_an_answer(server: Interpreter) -> None:
    """A character outside the basic plane takes twelve bytes in a message."""
    most = Limits(output_chars=250_000, wall_s=120.0, cpu_s=60.0)
    code = "import sys\nfor out in (sys.stdout, sys.stderr): out.write(chr(0x1F600) * 300_000)\n"
    code += "raise ValueError('\\0' * 10**6)"
    result = server.submit(code, limits=most).result(300)
    for text in (result.stdout, result.stderr):
        assert 249_900 < text.count(chr(0x1F600)) <= 250_000
    assert (result.status, result.error_line.count("\0") > 5000) == (Status.ERROR, True)


def test_slow_and_truncated_requests_hold_up_nobody(server: Interpreter) -> None:
    whole = frame(HELLO) + frame({"id": 1, "op": "run", "code": "print('slow')"})
    idle = [connect(server) for _ in range(50)]
    for wire in idle:
        wire.sendall(struct.pack(">I", 4000) + b"{")
    with connect(server) as wire:
        for place in range(0, len(whole), 7):
            wire.sendall(whole[place : place + 7])
            time.sleep(0.002)
        assert still_serves(server)
        data = b""
        while b"slow" not in data:
            data += wire.recv(4096)
    for wire in idle:
        wire.close()
    assert still_serves(server)


def test_disconnecting_ends_the_clients_programs_and_sessions(server: Interpreter) -> None:
    async def leave() -> None:
        client = await SandboxClient.connect(server.address)
        await client.run("x = 1", await client.open_session())
        waiting = [asyncio.ensure_future(client.run("import time\ntime.sleep(60)")) for _ in range(20)]
        await asyncio.sleep(0.3)
        await client.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, ConnectionError) for result in results)

    asyncio.run(leave())
    until(lambda: not server.health()["running"])
    health = server.health()
    assert (health["running"], health["queue_length"], health["sessions"]) == (0, 0, 0)
    assert still_serves(server)


def test_sessions_of_another_connection_cannot_be_used(server: Interpreter) -> None:
    async def intrude(session: str) -> None:
        client = await SandboxClient.connect(server.address)
        for request in (client.run("print(x)", session), client.close_session(session)):
            with pytest.raises(RequestRefused, match="no such session"):
                await request
        await client.close()

    session = server.open_session()
    server.run("x = 'mine'", session)
    asyncio.run(intrude(session))
    assert server.run("print(x)", session).stdout == "mine\n"
    server.close_session(session)


def test_many_connections_at_once(server: Interpreter) -> None:
    async def one(number: int) -> str:
        client = await SandboxClient.connect(server.address)
        result = await client.run(f"print({number})")
        await client.close()
        return result.stdout

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one(number) for number in range(100)))

    assert asyncio.run(all_of_them()) == [f"{number}\n" for number in range(100)]


def test_tcp_requires_the_token() -> None:
    with tempfile.TemporaryDirectory() as name:
        right, wrong = Path(name) / "right", Path(name) / "wrong"
        right.write_text("a-token-of-some-length\n")
        wrong.write_text("another-token-of-length\n")
        command = [
            sys.executable,
            "-m",
            "tasks.shared.sandbox.server",
            "--until-stdin-closes",
            "--tcp",
            "127.0.0.1:0",
        ]
        command += ["--token-file", str(right), "--settings", json.dumps({"workers": 1})]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None and process.stdout is not None
        address = json.loads(process.stdout.readline())["ready"]
        with Interpreter(SandboxSettings(token_file=str(right)), address=address) as interpreter:
            assert interpreter.run("print(5)").status is Status.OK
        for token_file in (str(wrong), ""):
            with pytest.raises(SandboxUnavailable, match="wrong token"):
                Interpreter(SandboxSettings(token_file=token_file), address=address)
        process.stdin.close()
        last = process.stdout.read().splitlines()[-1]
        process.wait(10)
        process.stdout.close()
        assert json.loads(last)["health"]["executions"] == 1


def test_server_that_finds_its_path_taken_leaves_what_is_there(tmp_path: Path) -> None:
    taken = tmp_path / "notes.txt"
    taken.write_text("kept")
    command = [sys.executable, "-m", "tasks.shared.sandbox.server", "--socket", str(taken)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, "is already in use" in json.loads(ran.stdout)["failed"], ran.stderr) == (
        1,
        True,
        "",
    )
    assert taken.read_text() == "kept"


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--tcp", "127.0.0.1", "--token-file", os.devnull], "write HOST:PORT"),
    (["--tcp", "127.0.0.1:0", "--token-file", "/nonexistent"], "No such file"),
    (["--tcp", "127.0.0.1:0"], "--tcp needs --token-file"),
    (["--tcp", "127.0.0.1:0", "--token-file", os.devnull], "shorter than 16"),
    (["--tcp", "127.0.0.1:99999", "--token-file", __file__, "--settings", '{"preload": []}'], "cannot listen at 127"),
    (["--socket", f"/tmp/{'s' * 120}", "--settings", '{"preload": []}'], "sss: AF_UNIX path too long"),
    (["--socket", "/nonexistent/s", "--settings", "[]"], "must be an object"),
    (["--socket", "/nonexistent/s", "--settings", '{"worker": 1}'], "unknown sandbox settings ['worker']"),
    (["--socket", "/nonexistent/s", "--settings", '{"workers": 0}'], "workers = 0: at least 1"),
])  # fmt: skip
def test_server_refuses_what_it_should_not_start_with(arguments: list[str], reason: str) -> None:
    command = [sys.executable, "-m", "tasks.shared.sandbox.server", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode != 0
    assert reason in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
