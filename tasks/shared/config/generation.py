"""The engine that samples: the section `generation` of the configuration tree."""

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tasks.shared.config.section import Section


class PoolConfig(Section):
    """Servers of vLLM that sample, with `generation.placement = "pool"`: docs/operations.md."""

    servers: int = Field(1, ge=1)  # on each host that samples
    tensor_parallel: int = Field(1, ge=1)  # GPUs of one server; on the CPU, parts of its cores
    quantization: Literal["none", "fp8"] = "none"  # of the servers' weights
    # hosts that only sample; 0: the first host samples, on the GPUs without a rank
    nodes: int = Field(0, ge=0)
    # of weights: nccl between GPUs, or files in memory or in TIRFLOW_SHARED; auto: nccl if there are GPUs
    transfer: Literal["auto", "nccl", "files"] = "auto"
    restarts: int = Field(3, ge=0)  # of one server, before the stage gives up
    # servers that run already (tasks/shared/generation/pool/serve.py), http://host:port; none are started then
    addresses: tuple[str, ...] = ()
    key_variable: str = ""  # names the environment variable with the token of `addresses`

    @model_validator(mode="after")
    def _addresses_are_of_running_servers(self) -> Self:
        for address in self.addresses:
            place = urlsplit(address)
            if place.scheme not in ("http", "https") or not place.hostname or place.path.strip("/"):
                raise ValueError(f"generation.pool.addresses: '{address}' is not http://host:port")
        if self.addresses and not self.key_variable:
            raise ValueError(
                "generation.pool.addresses needs key_variable, the environment variable with the servers' token"
            )
        if self.key_variable and not self.addresses:
            raise ValueError("generation.pool.key_variable is for running servers: name them in addresses")
        for name in ("servers", "tensor_parallel", "quantization", "nodes"):
            if self.addresses and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"generation.pool.{name} is for servers that the stage starts, and addresses names running ones: "
                    "take one of the two out"
                )
        return self


class GenerationConfig(Section):
    """The engine that samples, in RL and evaluation alike."""

    engine: Literal["vllm", "transformers"] = "vllm"
    # inside the stage's process; beside: the Transformers engine in a process of its own; pool: vLLM as servers
    placement: Literal["inside", "beside", "pool"] = "inside"
    pool: PoolConfig = PoolConfig()
    max_sequences: int = Field(256, ge=1)  # sequences decoded side by side, by each engine
    max_prompt_tokens: int = Field(2048, ge=1)
    max_response_tokens: int = Field(16384, ge=1)  # the whole response, interpreter output included
    gpu_memory_utilization: float = Field(0.6, gt=0, lt=1)

    @model_validator(mode="after")
    def _placement_fits(self) -> Self:
        if self.placement == "pool" and self.engine != "vllm":
            raise ValueError(
                f"generation.placement = 'pool' needs generation.engine = 'vllm', not '{self.engine}'"
            )
        if self.placement == "beside" and self.engine != "transformers":
            raise ValueError(
                "generation.placement = 'beside' needs generation.engine = 'transformers'; for vLLM use 'pool'"
            )
        if self.placement != "pool" and self.pool != PoolConfig():
            raise ValueError(
                "generation.pool needs generation.placement = 'pool': set that, or take the section out"
            )
        return self
