"""A browser for the session; these tests need `apt-get install chromium chromium-driver` and run by themselves."""

import shutil
import socket
from collections.abc import Iterator

import pytest

from tests.browser.chromium import Chromium, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """One headless Chromium."""
    if shutil.which("chromedriver") is None:
        pytest.fail("chromedriver is missing: apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with chromium(port) as window:
        yield window
