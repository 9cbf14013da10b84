"""A browser for the session; these tests need `apt-get install chromium chromium-driver` and run by themselves."""

import shutil
from collections.abc import Iterator

import pytest

from tasks.shared.contract.addresses import free_port
from tests.browser.chromium import Chromium, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """One headless Chromium."""
    if shutil.which("chromedriver") is None:
        pytest.fail("chromedriver is missing: apt-get install chromium chromium-driver")
    with chromium(free_port("127.0.0.1")) as window:
        yield window
