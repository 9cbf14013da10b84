"""Runs in a server's workers: loads weights bucket by bucket, and computes digests of them.

vLLM mixes `PoolWorker` into its worker (`--worker-extension-cls`). The server's `/collective_rpc` calls its methods by
name, between two steps of the engine. Each worker of a tensor-parallel group takes its part itself.
"""

from typing import Any

import torch

from tasks.shared.generation.vllm_weights import fingerprints, refresh_tied_head


class PoolWorker:
    """Methods of vLLM's worker."""

    model_runner: Any
    vllm_config: Any
    rank: int

    def begin_weights(self) -> None:
        """Prepare to load every tensor again, in the form of a checkpoint."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(self.model_runner.get_model())

    def take_weights(self, path: str) -> None:
        """Load the tensors of a safetensors file."""
        from safetensors.torch import load_file
        from vllm.config import set_current_vllm_config

        tensors: dict[str, torch.Tensor] = load_file(path)
        with set_current_vllm_config(self.vllm_config):
            self.model_runner.get_model().load_weights(iter(tensors.items()))

    def finish_weights(self) -> None:
        """Convert the loaded tensors to the form in which the model computes."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        with set_current_vllm_config(self.vllm_config):
            finalize_layerwise_reload(self.model_runner.get_model(), self.vllm_config.model_config)
        refresh_tied_head(self)

    def weight_digests(self) -> dict[str, str]:
        """A digest of every tensor that this worker holds, by worker and name."""
        return {f"worker {self.rank}: {name}": value for name, value in fingerprints(self).items()}
