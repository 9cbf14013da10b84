"""How the trainer's weights reach the servers: in buckets, as files of this process's memory or of a shared directory.

A file in memory is one that this process holds open and others open under its name in /proc: it is gone with the
process, however that ends.
"""

import os
import shutil
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.shared.generation.pool.members import Pool

if TYPE_CHECKING:
    import torch

BUCKET_BYTES = 1 << 30
Call = Callable[[Coroutine[Any, Any, Any]], Any]


def buckets(
    weights: "Iterable[tuple[str, torch.Tensor]]", device: str | None = None
) -> "Iterator[dict[str, torch.Tensor]]":
    """Copies of the tensors in order, in groups of about BUCKET_BYTES; a larger one is a group of its own.

    `device`: where the copies lie, None for where the tensors do. A gathered ZeRO-3 tensor itself is soon gone.
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


class Transfer(Protocol):
    """A way that weights take to the servers of a pool."""

    def push(self, weights: "Iterable[tuple[str, torch.Tensor]]", version: str) -> None:
        """Give every server these weights under that name; requests that run wait meanwhile and go on with them."""

    def close(self) -> None:
        """Let go of what it holds."""


class FileTransfer:
    """Through files, which stay until the next push: a server that is started later takes them too."""

    def __init__(self, pool: Pool, call: Call, directory: Path | None) -> None:
        """`call` runs something in the pool's thread; `directory` as for `WeightFiles`."""
        self._pool = pool
        self._call = call
        self._files = WeightFiles(directory)

    def push(self, weights: "Iterable[tuple[str, torch.Tensor]]", version: str) -> None:
        """See `Transfer.push`."""
        paths = self._files.write(weights)
        self._call(self._pool.push(paths, version))
        self._files.drop_older(paths)

    def close(self) -> None:
        """Forget the files."""
        self._files.close()


class WeightFiles:
    """The weights that were written last, for servers that come later too."""

    def __init__(self, directory: Path | None) -> None:
        """`directory` is one that servers on other hosts see; None keeps the files in memory, for this host."""
        self._directory = directory
        self._descriptors: list[int] = []
        self._number = 0
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)  # of an attempt that was killed

    def write(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> list[str]:
        """Write all weights; the paths, in order. What was written before stays until `drop_older`."""
        from safetensors.torch import save

        self._number += 1
        paths = []
        for place, group in enumerate(buckets(weights, "cpu")):
            paths.append(self._new_path(place))
            Path(paths[-1]).write_bytes(save(group))
        return paths

    def drop_older(self, paths: list[str]) -> None:
        """Forget everything but these."""
        if self._directory is not None:
            for path in self._directory.glob("*/*.safetensors"):
                if str(path) not in paths:
                    path.unlink()
            return
        kept = self._descriptors[len(self._descriptors) - len(paths) :]
        for descriptor in self._descriptors[: len(self._descriptors) - len(paths)]:
            os.close(descriptor)
        self._descriptors = kept

    def close(self) -> None:
        """Forget everything."""
        self.drop_older([])
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _new_path(self, place: int) -> str:
        if self._directory is not None:
            path = self._directory / f"{self._number:06d}" / f"{place:04d}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            return str(path)
        descriptor = os.memfd_create("weights")
        self._descriptors.append(descriptor)
        return f"/proc/{os.getpid()}/fd/{descriptor}"
