"""What is served: a checkpoint, how it samples, and the limits. Written by `serving.py` of the command line."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.shared.config import EvaluateStage, ServeConfig


class ServeRequest(BaseModel):
    """Everything that `ask` and `serve` need; the environment that they run in knows no store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # the checkpoint's, as it was given: the model's name in the API
    checkpoint: Path  # its directory
    config: EvaluateStage
    serve: ServeConfig
    scratch: Path  # for logs of a pool's servers
    # ask
    question: str = ""
    samples: int = 1
    seed: int | None = None  # None: drawn
    # serve
    host: str = "127.0.0.1"
    port: int = 8000
