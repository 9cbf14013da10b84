"""The recipe's sandbox section reaches the interpreter: a served address in its notation, limits as they stand."""

import pytest

from tasks.shared.config import SandboxConfig
from tasks.shared.interpreter import make_interpreter
from tasks.shared.sandbox import SandboxUnavailable


@pytest.mark.parametrize("address", ["/run/socket", "http:host", "unix:"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    """One line with the remedy."""
    with pytest.raises(ValueError, match="write unix:/path or tcp:host:port"):
        make_interpreter(SandboxConfig(address=address))


def test_a_server_that_is_not_there_is_told(tmp_path: object) -> None:
    """The address is used, not a server of its own."""
    with pytest.raises((SandboxUnavailable, OSError)):
        make_interpreter(SandboxConfig(address=f"unix:{tmp_path}/none"))


def test_limits_reach_the_program() -> None:
    """Output is cut where the recipe says."""
    with make_interpreter(SandboxConfig(workers=1, output_chars=64, preload=("math",))) as interpreter:
        result = interpreter.run("print('x' * 1000)")
    assert result.status == "output_cut" and len(result.stdout) < 200
