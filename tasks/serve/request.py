"""The request for `ask` or `serve`: a checkpoint, how it samples, and the limits. The command line writes it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.serve.config import ServeConfig
from tasks.shared.config import EvaluateStage


class ServeRequest(BaseModel):
    """Everything that `ask` and `serve` need, since they may run in an environment without the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # of the checkpoint as the user gave it, and of the model in the API
    checkpoint: Path  # directory
    config: EvaluateStage
    serve: ServeConfig
    scratch: Path  # for the logs of a pool's servers
    # ask
    question: str = ""
    samples: int = 1
    seed: int | None = None  # None draws one
    # serve
    host: str = "127.0.0.1"
    port: int = 8000
