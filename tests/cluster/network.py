"""Hosts as network namespaces with addresses of their own, connected by a switch.

Needs root and iproute2. A test removes the leftovers of a killed one.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NETWORK, LOCAL_ADDRESS = "10.77.0", "10.77.0.1"
SWITCH, BRIDGE, LOCAL_LINK = "tirflow-switch", "bridge0", "tirflow0"


@dataclass(frozen=True)
class Host:
    """A network namespace with an address and a home."""

    name: str
    address: str
    home: Path

    @property
    def link(self) -> str:
        """The switch's end of its cable."""
        return f"{self.name}-out"

    def set_link(self, state: str) -> None:
        """Connect it (`up`) or disconnect it (`down`)."""
        ip("-n", SWITCH, "link", "set", self.link, state)


def ip(*arguments: str) -> None:
    """Run the command `ip`."""
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def network(hosts: Sequence[Host]) -> Iterator[None]:
    """A switch that connects every host's namespace and this one.

    It has its own namespace, because Docker's packet filter in this one drops packets between hosts.
    """
    _remove(hosts)
    try:
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", BRIDGE, "type", "bridge")
        ip("-n", SWITCH, "link", "set", BRIDGE, "up")
        _plug_in("local", LOCAL_ADDRESS, LOCAL_LINK)
        for host in hosts:
            ip("netns", "add", host.name)
            _plug_in(host.link, host.address, "eth0", "-n", host.name)
            ip("-n", host.name, "link", "set", "lo", "up")
        yield
    finally:
        _remove(hosts)


def _plug_in(link: str, address: str, name: str, *inside: str) -> None:
    """Connect the switch's `link` to a new interface of that name and address, `inside` a namespace or this one."""
    ip(*inside, "link", "add", name, "type", "veth", "peer", "name", link, "netns", SWITCH)
    ip("-n", SWITCH, "link", "set", link, "master", BRIDGE, "up")
    ip(*inside, "address", "add", f"{address}/24", "dev", name)
    ip(*inside, "link", "set", name, "up")


def _remove(hosts: Sequence[Host]) -> None:
    """Remove the namespaces and links, also those that a killed test has left."""
    names = (SWITCH, *(host.name for host in hosts))
    for what in (("link", "delete", LOCAL_LINK), *(("netns", "delete", name) for name in names)):
        subprocess.run(["ip", *what], check=False, capture_output=True)
