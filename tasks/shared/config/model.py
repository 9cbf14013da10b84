"""The base model: the section `model` of the configuration tree."""

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.shared.config.section import Section, require_absolute


class TinyModel(Section):
    """Shape of the randomly initialised Qwen2-architecture model that `prepare` makes (source = "tiny")."""

    hidden_size: int = Field(128, ge=1)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    key_value_heads: int = Field(2, ge=1)
    intermediate_size: int = Field(352, ge=1)
    vocabulary: int = Field(640, ge=1)
    max_positions: int = Field(1024, ge=1)


class ModelConfig(Section):
    """The base model: a hub id with a pinned revision, a local `save_pretrained` directory, or one made here."""

    source: Literal["hub", "path", "tiny"] = "hub"
    id: str = ""
    revision: str = ""  # a commit hash; branches move, so `prepare` refuses them
    path: str = ""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    # YYYY-MM-DD, for chat templates that write today's date; empty: the day on which `prepare` runs
    template_date: str = Field("", pattern=r"^(\d{4}-\d{2}-\d{2})?$")
    tiny: TinyModel = TinyModel()

    @model_validator(mode="after")
    def _source_is_complete(self) -> Self:
        if self.source == "hub" and not (self.id and self.revision):
            raise ValueError("model.source = 'hub' needs model.id and model.revision (a commit hash)")
        try:
            date.fromisoformat(self.template_date or "2026-01-01")
        except ValueError as error:
            raise ValueError(f"model.template_date = '{self.template_date}': {error}") from error
        if self.source == "path" and not self.path:
            raise ValueError("model.source = 'path' needs model.path, a save_pretrained directory")
        require_absolute("model.path", self.path)
        return self
