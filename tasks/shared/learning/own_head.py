"""Computes logits from last hidden states with the model's own code, including its scaling of logits.

Granite divides logits, Cohere multiplies them, and Gemma caps them softly, each in the forward pass of its causal
language model. So this module runs that pass, with the given states in place of the body.
"""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def own_logits(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) after the last hidden states (N, H), as `model` computes them; differentiable.

    Runs no hook of `model` or its output embedding: under ZeRO-3 the caller gathers their weights.
    """
    head = _without_hooks(model)
    head._modules = dict(model._modules)
    head._modules[model.base_model_prefix] = _GivenStates(model.base_model)
    embedding = model.get_output_embeddings()
    for name, module in model._modules.items():
        if module is embedding:
            head._modules[name] = _without_hooks(module)
    return head(inputs_embeds=states[None], use_cache=False).logits[0]


class _GivenStates(nn.Module):
    """Replaces a model's body: receives the last hidden states as embeddings and returns them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self._body = (body,)  # not a child

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> "_Output":
        """The states, in the form in which the code of a head expects them."""
        return _Output(inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_body"][0], name)


class _Output(tuple):
    """(states,) with every attribute of a model's output: None, except for the last hidden state."""

    def __new__(cls, states: torch.Tensor) -> "_Output":
        return super().__new__(cls, (states,))

    @property
    def last_hidden_state(self) -> torch.Tensor:
        """(1, N, H)."""
        states: torch.Tensor = self[0]
        return states

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def _without_hooks(module: Any) -> Any:
    """A copy of `module` over the same parameters and children that calls no hooks."""
    bare = copy.copy(module)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        setattr(bare, name, OrderedDict())
    return bare
