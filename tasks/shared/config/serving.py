"""How a checkpoint is served: the section `serve` of the configuration tree."""

from typing import Literal

from pydantic import Field

from tasks.shared.config.section import Section


class ServeConfig(Section):
    """What a server's replies hold, and its limits. How it samples stands in `evaluate`, `traces` and `sandbox`."""

    # where a reply has what programs printed: in its text, as the model read it, or in the field `interpreter` alone
    interpreter: Literal["text", "field"] = "text"
    # samples that wait beside those that the engine decodes; more are refused
    max_queue: int = Field(256, ge=0)
    max_samples: int = Field(64, ge=1)  # of one request (n)
    max_body_kib: int = Field(1024, ge=1)  # of a request
    max_seconds: float = Field(600.0, gt=0)  # that a request may take
    end_seconds: float = Field(30.0, ge=0)  # for requests that are under way when the server is told to end
