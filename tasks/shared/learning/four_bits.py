"""A frozen base in four bits, QLoRA (arXiv 2305.14314): the linear layers of the body as bitsandbytes packs them.

    W ~ nf4[code] a        code: 4 bits a weight; a: the largest |W| of 64 weights, in 8 bits (double quantisation)

A layer is unpacked in the model's precision for a product, and again for its gradient; no unpacked copy is kept.
"""

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

BLOCK = 64  # weights that share a scale


class FourBitLinear(nn.Linear):
    """A linear layer whose `weight` is packed, two to a byte, and takes no gradient."""

    def __init__(self, layer: nn.Linear) -> None:
        """Pack the weight of `layer` on its device: on a CPU, where every process gets the same bits."""
        from bitsandbytes import functional

        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        packed, self._scales = functional.quantize_4bit(
            layer.weight.data, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = layer.bias

    def whole(self) -> torch.Tensor:
        """(out, in): the unpacked weight, in the precision from which it was packed."""
        from bitsandbytes import functional

        self._scales.to(self.weight.device)  # no buffers: DeepSpeed would round them to bfloat16
        return cast(torch.Tensor, functional.dequantize_4bit(self.weight.data, self._scales))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        return cast(torch.Tensor, _Product.apply(states, self))


class _Product(torch.autograd.Function):
    """x W^T + b; keeps no unpacked W for the gradient."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, layer: FourBitLinear) -> torch.Tensor:
        ctx.layer = layer
        return nn.functional.linear(states, layer.whole(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ ctx.layer.whole(), None


def pack_linear_layers(model: PreTrainedModel) -> None:
    """Put every linear layer of the body into four bits, in place; embedding, norms and output head stay.

    Raises ValueError without bitsandbytes.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"optimizer.lora.base = 'nf4' needs the package bitsandbytes ({error}): pip install bitsandbytes, or take "
            "the key out"
        ) from error
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module is not head:
            model.set_submodule(name, FourBitLinear(module))
