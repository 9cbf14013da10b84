"""The addresses, network interfaces and free ports of this host."""

import socket

import psutil


def address_towards(host: str) -> str:
    """Return this host's own address on the route to another one. Sends nothing. Raises OSError without a route."""
    family, kind, *_, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """Return the network interface with an address of this host. Raises ValueError if there is none."""
    for name, found in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in found):
            return name
    raise ValueError(f"no network interface of this host has the address {address}")


def free_port(address: str) -> int:
    """Return a TCP port of this address that is free now."""
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])
