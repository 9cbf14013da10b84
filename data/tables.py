"""The tables of this folder: TOML, by name."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def read_tables(file: str) -> dict[str, Any]:
    """The tables of a file of this folder."""
    return tomllib.loads(Path(__file__).with_name(file).read_text(encoding="utf-8"))


def find_entry(entries: Mapping[str, Entry], name: str, what: str, remedy: str) -> Entry:
    """The entry of that name. ValueError, which lists the known ones, if there is none.

    The message begins with `what`, like "gpus.toml: no GPU", and ends with `remedy`, which has {} for the known names.
    """
    if name not in entries:
        raise ValueError(f"{what} '{name}'; {remedy.format(', '.join(sorted(entries)))}")
    return entries[name]
