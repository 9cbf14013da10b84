"""The recipe's sandbox section reaches the interpreter: a server's address and limits."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.shared.config import SandboxConfig
from tasks.shared.sandbox import SandboxUnavailable
from tasks.shared.tools.interpreter import make_interpreter


@pytest.mark.parametrize("address", ["/run/socket", "http:host", "unix:", "tcp:host", "tcp:host:port"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    """One line with the remedy."""
    with pytest.raises(ValueError, match="write unix:/path or tcp:host:port"):
        make_interpreter(SandboxConfig(address=address))


def test_a_missing_server_is_an_error(tmp_path: object) -> None:
    """The address is used, and no own server is started."""
    with pytest.raises((SandboxUnavailable, OSError)):
        make_interpreter(SandboxConfig(address=f"unix:{tmp_path}/none"))


def test_the_interpreter_beside_a_stage_may_start_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both start at once; the stage waits for the socket."""
    socket = tmp_path / "socket"
    monkeypatch.setenv("TIRFLOW_SANDBOX_ADDRESS", f"unix:{socket}")
    command = [sys.executable, "-m", "tasks.shared.sandbox.server", "--socket", str(socket)]
    server = subprocess.Popen([*command, "--until-stdin-closes"], stdin=subprocess.PIPE)
    try:
        assert not socket.exists()
        with make_interpreter(SandboxConfig()) as interpreter:
            assert interpreter.run("print(1 + 1)").stdout == "2\n"
    finally:
        server.communicate()


def test_limits_reach_the_program() -> None:
    """Output is cut where the recipe says."""
    with make_interpreter(SandboxConfig(workers=1, output_chars=64, preload=("math",))) as interpreter:
        result = interpreter.run("print('x' * 1000)")
    assert result.status == "output_cut" and len(result.stdout) < 200
