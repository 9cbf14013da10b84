"""Which of its addresses a host is reached under, and which of its network interfaces has it."""

import socket

import psutil


def address_towards(host: str) -> str:
    """This host's own address on the way to another one; nothing is sent. OSError if there is no way."""
    family, kind, *_, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The network interface that has an address of this host; ValueError if none has."""
    for name, found in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in found):
            return name
    raise ValueError(f"no network interface of this host has the address {address}")


def free_port(address: str) -> int:
    """A TCP port of this address that nobody listens on now."""
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])
