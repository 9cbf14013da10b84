"""Reads DeepSpeed's checkpoints without running code in them: tensors, numbers and three of its own classes.

DeepSpeed unpickles whatever it finds, and a `trainer_state` may come from elsewhere. Import this after DeepSpeed's
accelerator is set.
"""

import hashlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from tasks.shared.learning.saved import require_unchanged

RECORDS = [LossScaler, ZeroStageEnum, fragment_address]  # plain data that ZeRO keeps beside tensors


class _Summed:
    """A file with the sha256 of what is written to it; has the methods that torch.save calls."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sum = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash; torch writes from front to back."""
        self.sum.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._stream.flush()


class WeightsOnlyCheckpoints(TorchCheckpointEngine):
    """DeepSpeed's checkpoint engine, restricted to files of plain data.

    `sums`: sha256 of written files by name; `checked`: files already verified, because DeepSpeed opens some twice.
    """

    def __init__(self, config_params: Any = None) -> None:
        super().__init__(config_params)
        self.sums: dict[str, str] = {}
        self.checked: set[str] = set()

    def save(self, state_dict: Any, path: str) -> None:
        """Write a file and flush it to disk. OSError if the disk is full, which torch's own writer would not raise."""
        with open(path, "wb") as stream:
            summed: Any = _Summed(stream)
            torch.save(state_dict, summed)
            stream.flush()
            os.fsync(stream.fileno())
        self.sums[os.path.basename(path)] = summed.sum.hexdigest()

    def load(self, path: str, map_location: Any = None) -> Any:
        """The contents of a file. ValueError if it is damaged, would run code, or has objects of other classes."""
        if path not in self.checked:
            require_unchanged(Path(path))
            self.checked.add(path)
        try:
            with torch.serialization.safe_globals(RECORDS):
                content = torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).split(". ")[-1].splitlines()[0]
            raise ValueError(
                f"{path}: holds more than weights and numbers, or is damaged ({reason}); opening it could run code: "
                "take a trainer_state that a round of this project made"
            ) from error
        _intern_keys(content)
        return content


def _intern_keys(content: Any) -> None:
    """Make equal keys one object again, as they are in a state that was never read.

    Pickle writes an object once and then refers to it. Without this, a state that was read and saved again would have
    other bytes, and so another digest, than a state with the same content that was never read.
    """
    if isinstance(content, dict):
        items = [(sys.intern(key) if type(key) is str else key, value) for key, value in content.items()]
        content.clear()
        content.update(items)
        for _, value in items:
            _intern_keys(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            _intern_keys(value)
