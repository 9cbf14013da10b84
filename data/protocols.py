"""Evaluation protocols of published work: `data/protocols.toml`, by name, as keys of the section [evaluate].

`python -m data.protocols` lists them.
"""

import sys

from data.tables import find_entry, read_tables

Protocol = dict[str, int | float]  # key of [evaluate] -> value


def load_protocols() -> dict[str, Protocol]:
    """All protocols by name."""
    return read_tables("protocols.toml")


def find_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises ValueError, which lists the known ones, if there is none."""
    remedy = "use one of {}, or '' for none"
    return find_entry(load_protocols(), name, "protocols.toml: no protocol", remedy)


if __name__ == "__main__":
    for protocol_name, values in load_protocols().items():
        listed = "  ".join(f"{key} {value}" for key, value in values.items())
        sys.stdout.write(f"{protocol_name:8} {listed}\n")
