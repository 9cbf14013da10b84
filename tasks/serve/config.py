"""The server of a checkpoint: the section `serve` of the configuration tree."""

from typing import Literal

from pydantic import Field

from tasks.shared.config.section import Section


class ServeConfig(Section):
    """The form of a server's replies, and its limits. Its sampling is in `evaluate`, `traces` and `sandbox`."""

    # the output of programs in a reply: in the text, as the model read it, or only in the field `interpreter`
    interpreter: Literal["text", "field"] = "text"
    # waiting samples, beside those that the engine decodes; more are refused
    max_queue: int = Field(256, ge=0)
    max_samples: int = Field(64, ge=1)  # of one request (n)
    max_body_kib: int = Field(1024, ge=1)  # of a request
    max_seconds: float = Field(600.0, gt=0)  # that a request may take
    end_seconds: float = Field(30.0, ge=0)  # for running requests when the server is told to end
