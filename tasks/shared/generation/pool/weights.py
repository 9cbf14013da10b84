"""Sends the trainer's weights to the servers: in buckets, as files in this process's memory or in a shared directory.

This process holds a file in memory open, and servers open it under its name in /proc. So it is gone with the process,
however that ends.
"""

import os
import shutil
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from tasks.shared.generation.pool.members import Pool

BUCKET_BYTES = 1 << 30
Call = Callable[[Coroutine[Any, Any, Any]], Any]


def buckets(
    weights: Iterable[tuple[str, torch.Tensor]], device: str | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Copies of the tensors in order, in groups of about BUCKET_BYTES; a larger one is a group of its own.

    `device`: of the copies; None: that of the tensors. Copies, because ZeRO-3 soon frees a gathered tensor.
    """
    group: dict[str, torch.Tensor] = {}
    held = 0
    for name, tensor in weights:
        num_bytes = tensor.numel() * tensor.element_size()
        if group and held + num_bytes > BUCKET_BYTES:
            yield group
            group, held = {}, 0
        group[name] = tensor.detach().to(device or tensor.device, copy=True).contiguous()
        held += num_bytes
    if group:
        yield group


class FileTransfer:
    """Sends weights through files, which stay until the next push: a server that starts later reads them too."""

    def __init__(self, pool: Pool, call: Call, directory: Path | None) -> None:
        """`call` runs a coroutine in the pool's thread.

        `directory`: one that servers on other hosts see; None keeps the files in memory, for this host.
        """
        self._pool = pool
        self._call = call
        self._directory = directory
        self._held: list[str] = []  # paths of the files that there are
        self._number = 0
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)  # of an attempt that was killed

    def push(self, weights: Iterable[tuple[str, torch.Tensor]], version: str) -> None:
        """Give every server these weights under that name; running requests wait meanwhile and continue with them."""
        paths = self.write(weights)
        self._call(self._pool.push(paths, version))
        self.drop_older(paths)

    def write(self, weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """Write all weights and return the paths, in order. Older files stay until `drop_older`."""
        from safetensors.torch import save

        self._number += 1
        paths = []
        for place, group in enumerate(buckets(weights, "cpu")):
            paths.append(self._new_path(place))
            self._held.append(paths[-1])
            Path(paths[-1]).write_bytes(save(group))
        return paths

    def drop_older(self, paths: list[str]) -> None:
        """Remove every file but these."""
        for path in set(self._held) - set(paths):
            if self._directory is None:
                os.close(int(Path(path).name))  # in /proc a descriptor's name is its number
            else:
                Path(path).unlink()
        self._held = list(paths)

    def close(self) -> None:
        """Remove every file."""
        self.drop_older([])
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _new_path(self, place: int) -> str:
        if self._directory is not None:
            path = self._directory / f"{self._number:06d}" / f"{place:04d}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            return str(path)
        return f"/proc/{os.getpid()}/fd/{os.memfd_create('weights')}"
