"""Hosts as network namespaces with addresses of their own, on a switch that has one too. Needs root and iproute2.

What a test that was killed has left is removed by the next one.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NETWORK, HERE = "10.77.0", "10.77.0.1"
SWITCH, BRIDGE, LINK_HERE = "tirflow-switch", "bridge0", "tirflow0"


@dataclass(frozen=True)
class Host:
    """A network namespace with an address, and a home of its own."""

    name: str
    address: str
    home: Path

    @property
    def link(self) -> str:
        """The switch's end of its cable."""
        return f"{self.name}-out"

    def set_link(self, state: str) -> None:
        """Plug it in (`up`) or cut it off (`down`)."""
        ip("-n", SWITCH, "link", "set", self.link, state)


def ip(*arguments: str) -> None:
    """The command of that name."""
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def network(hosts: Sequence[Host]) -> Iterator[None]:
    """A switch, a cable from it to every host's namespace, and one to here.

    The switch has a namespace too: Docker's packet filter in this one drops what goes from host to host.
    """
    _remove(hosts)
    try:
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", BRIDGE, "type", "bridge")
        ip("-n", SWITCH, "link", "set", BRIDGE, "up")
        _plug_in("here", HERE, LINK_HERE)
        for host in hosts:
            ip("netns", "add", host.name)
            _plug_in(host.link, host.address, "eth0", "-n", host.name)
            ip("-n", host.name, "link", "set", "lo", "up")
        yield
    finally:
        _remove(hosts)


def _plug_in(link: str, address: str, name: str, *inside: str) -> None:
    """A cable from the switch's `link` to a new interface of that name and address, `inside` a namespace or here."""
    ip(*inside, "link", "add", name, "type", "veth", "peer", "name", link, "netns", SWITCH)
    ip("-n", SWITCH, "link", "set", link, "master", BRIDGE, "up")
    ip(*inside, "address", "add", f"{address}/24", "dev", name)
    ip(*inside, "link", "set", name, "up")


def _remove(hosts: Sequence[Host]) -> None:
    """Also what a test that was killed has left, whole or in part."""
    names = (SWITCH, *(host.name for host in hosts))
    for what in (("link", "delete", LINK_HERE), *(("netns", "delete", name) for name in names)):
        subprocess.run(["ip", *what], check=False, capture_output=True)
