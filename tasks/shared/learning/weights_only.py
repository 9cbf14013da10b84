"""DeepSpeed's checkpoints read without running what is in them: tensors, numbers and three of its own records.

DeepSpeed unpickles whatever it finds, and a `trainer_state` may come from elsewhere. Imported after DeepSpeed has been
told of its accelerator.
"""

import os
import pickle
import sys
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

RECORDS = [LossScaler, ZeroStageEnum, fragment_address]  # what ZeRO keeps beside tensors; plain data


class WeightsOnlyCheckpoints(TorchCheckpointEngine):
    """DeepSpeed's own engine, whose files may hold data alone."""

    def save(self, state_dict: Any, path: str) -> None:
        """Write a file to the disk's platter; OSError, where torch's own writer would not say why, if it is full."""
        with open(path, "wb") as stream:
            torch.save(state_dict, stream)
            stream.flush()
            os.fsync(stream.fileno())

    def load(self, path: str, map_location: Any = None) -> Any:
        """The contents of a file. ValueError: it is damaged, or it would run code or make objects of other classes."""
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

    Pickle writes an object once and then refers to it: without this, a state that was saved, read and saved again
    would have other bytes, and so another digest, than one with the same content that was not.
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
