"""Evaluation protocols of published work: `data/protocols.toml`, by name, as keys of the section [evaluate].

`python -m data.protocols` lists them.
"""

import sys
import tomllib
from pathlib import Path

PROTOCOLS_PATH = Path(__file__).with_name("protocols.toml")

Protocol = dict[str, int | float]  # key of [evaluate] -> value


def load_protocols() -> dict[str, Protocol]:
    """All protocols by name."""
    return tomllib.loads(PROTOCOLS_PATH.read_text(encoding="utf-8"))


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: no such protocol; the message lists the known ones.
    """
    protocols = load_protocols()
    if name not in protocols:
        known = ", ".join(sorted(protocols))
        raise ValueError(f"{PROTOCOLS_PATH.name}: no protocol '{name}'; use one of {known}, or '' for none")
    return protocols[name]


if __name__ == "__main__":
    for protocol_name, values in load_protocols().items():
        listed = "  ".join(f"{key} {value}" for key, value in values.items())
        sys.stdout.write(f"{protocol_name:8} {listed}\n")
