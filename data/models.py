"""The registry of public models: `data/models.toml`, read into records.

`python -m data.models` lists hub id, revision and number of parameters.
"""

import sys
from dataclasses import dataclass
from typing import Literal, get_args

from data.tables import find_entry, read_tables

Architecture = Literal["qwen2", "qwen3", "llama", "smollm3"]
ARCHITECTURES = get_args(Architecture)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder with SwiGLU and RMSNorm; the names in config.json stand behind those that differ."""

    hidden_size: int
    layers: int  # num_hidden_layers
    heads: int  # num_attention_heads
    key_value_heads: int  # num_key_value_heads
    intermediate_size: int
    vocabulary: int  # vocab_size: rows of the embedding, more than the tokenizer's tokens
    tied: bool  # tie_word_embeddings: embedding and output head are one tensor
    positions: int  # max_position_embeddings
    # model_type: qwen2 has biases on q, k and v, qwen3 norms on q and k, llama and smollm3 neither
    architecture: Architecture = "qwen2"
    head_size: int = 0  # head_dim; 0: hidden_size / heads

    @property
    def query_size(self) -> int:
        """Width of the queries of one token in one layer."""
        return (self.head_size or self.hidden_size // self.heads) * self.heads

    @property
    def key_value_size(self) -> int:
        """Width of the keys, and of the values, of one token in one layer."""
        return self.query_size // self.heads * self.key_value_heads

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one layer by name: inputs and outputs."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.query_size, self.key_value_size
        return {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def head_parameters(self) -> int:
        """Parameters of the embedding, as many as those of the output head."""
        return self.vocabulary * self.hidden_size

    @property
    def layer_parameters(self) -> int:
        """q and o: 2 H Q; k and v: 2 H K; their biases: Q + 2 K; their norms: 2 D; SwiGLU: 3 H I; two norms: 2 H."""
        linear = sum(inputs * outputs for inputs, outputs in self.linear_layers.values())
        biases = self.query_size + 2 * self.key_value_size if self.architecture == "qwen2" else 0
        norms = 2 * (self.query_size // self.heads) if self.architecture == "qwen3" else 0
        return linear + biases + norms + 2 * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters; a tied tensor counts once."""
        embeddings = self.head_parameters * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden_size


@dataclass(frozen=True, slots=True)
class PublicModel:
    """One public model at a pinned revision."""

    id: str
    revision: str  # commit hash on the hub, 40 hex digits
    shape: ModelShape


def load_models() -> dict[str, PublicModel]:
    """All entries by hub id."""
    tables = read_tables("models.toml")
    return {
        name: PublicModel(name, entry.pop("revision"), ModelShape(**entry)) for name, entry in tables.items()
    }


def find_model(hub_id: str) -> PublicModel:
    """The entry of that hub id. Raises ValueError, which lists the known ones, if there is none."""
    return find_entry(load_models(), hub_id, "models.toml: no model", "add its shape there or use one of {}")


if __name__ == "__main__":
    for model in load_models().values():
        sys.stdout.write(f"{model.id:28} {model.revision[:12]}  {model.shape.num_parameters / 1e9:6.2f} B\n")
