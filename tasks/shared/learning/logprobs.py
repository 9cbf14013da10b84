"""Log-probs and entropies of the target tokens of a packed row, for SFT, policy updates and the weight probe.

Only target positions go through the output head, a bounded piece at a time, so that memory grows with the token
budget and not with budget x vocabulary. Attention is confined to each sequence: by a loop of causal SDPA calls over
the sequences (`packed`, what `use_packed_attention` sets), by flash-attention's variable length kernel, or by an
explicit block-diagonal mask for any other implementation.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tasks.shared.learning.packing import PackedBatch

# Logits held at once, in elements: 0.5 GB in float32. Rows that need more recompute their logits in the backward pass.
MAX_LOGITS = 2**27


class TokenScores(NamedTuple):
    """Per-token results, 0 where `batch.targets` is False."""

    logprobs: torch.Tensor  # (B, T) float32: log-prob of ids[t] given the ids before t in its sequence
    entropy: torch.Tensor | None  # (B, T) float32, in nats: entropy of the distribution that predicts ids[t]


class TokenHead(nn.Module):
    """The output head with what is read off it, as one module: ZeRO-3 gathers its weights once a row.

    Called a piece at a time, the head would be gathered as often as a rank has pieces, and ranks have other numbers
    of targets. It is no child, so that a state has its weights under one name.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._head = (model.get_output_embeddings(),)
        self._vocabulary = model.config.vocab_size

    @property
    def weights(self) -> tuple[nn.Parameter, ...]:
        """What a forward pass takes of parameters that are not this module's own."""
        return tuple(self._head[0].parameters())

    def forward(
        self, states: torch.Tensor, ids: torch.Tensor, temperature: float, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) log-probs of `ids` (N,) after `states` (N, H), and entropies, (0,) unless asked for."""

        def score(states: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = (
                self._head[0].forward(states).float() / temperature
            )  # (n, V); not called: no hooks of its own
            logprobs = -cross_entropy(logits, ids, reduction="none")
            if not with_entropy:
                return logprobs, logprobs.new_zeros(0)
            log_distribution = logits.log_softmax(-1)
            return logprobs, -(log_distribution.exp() * log_distribution).sum(-1)

        rows = max(1, MAX_LOGITS // self._vocabulary)
        if len(ids) <= rows:
            return score(states, ids)
        pieces = [
            checkpoint(score, some, wanted, use_reentrant=False)
            for some, wanted in zip(states.split(rows), ids.split(rows), strict=True)
        ]
        logprobs, entropy = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return logprobs, entropy


def token_logprobs(model: PreTrainedModel, batch: PackedBatch, temperature: float = 1.0) -> torch.Tensor:
    """(B, T) log-probs of the target tokens under softmax(logits / temperature); 0 elsewhere."""
    return token_scores(model, batch, temperature).logprobs


def token_scores(
    model: PreTrainedModel,
    batch: PackedBatch,
    temperature: float = 1.0,
    with_entropy: bool = False,
    head: TokenHead | None = None,
) -> TokenScores:
    """Log-probs, and entropies if asked for, of the target tokens; differentiable, in float32.

    `head` is the model's own where ZeRO-3 has to know it.
    """
    before = target_states(model, batch)  # (N, H)
    head = head or TokenHead(model)
    logprobs, entropy = head(before, batch.ids[batch.targets], temperature, with_entropy)
    return TokenScores(_scatter(batch, logprobs), _scatter(batch, entropy) if with_entropy else None)


def target_states(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """(N, H) last hidden states from which the N target tokens are predicted, in row order."""
    hidden = model.base_model(
        input_ids=batch.ids,
        position_ids=batch.position_ids,
        use_cache=False,
        **_attention_arguments(model, batch),
    ).last_hidden_state  # (B, T, H)
    # Token t is predicted at t - 1; targets never start a sequence, so that is in the same sequence.
    return hidden[:, :-1][batch.targets[:, 1:]]


def _scatter(batch: PackedBatch, values: torch.Tensor) -> torch.Tensor:
    """(N,) values of the targets as (B, T), 0 elsewhere."""
    zeros = torch.zeros(batch.ids.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(batch.targets, values)


def use_packed_attention(model: PreTrainedModel) -> None:
    """Confine SDPA attention to each packed sequence without a mask; other uses of the model stay as they were.

    Raises ValueError for a model whose attention or head this project would compute wrongly.
    """
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(model.config, "final_logit_softcapping", None):
        raise ValueError(
            f"model type '{model.config.model_type}': sliding-window attention and soft-capped logits are not "
            "supported; use a model with full attention, such as Qwen2.5"
        )
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register("packed", packed_attention)
        AttentionMaskInterface.register("packed", sdpa_mask)
        model.set_attn_implementation("packed")


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (1, heads, T, D)
    key: torch.Tensor,  # (1, key-value heads, T, D)
    value: torch.Tensor,  # (1, key-value heads, T, D)
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segment_lengths: tuple[int, ...] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in each of the sequences that `segment_lengths` names; plain SDPA without it.

    A mask over the row would cost T x T and be computed whole; the loop costs the sum of n x n / 2.
    """
    if segment_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    queries, keys, values = (tensor.split(segment_lengths, 2) for tensor in (query, key, value))
    parts = [
        scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
        )
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def _attention_arguments(model: PreTrainedModel, batch: PackedBatch) -> dict[str, Any]:
    kind = model.config._attn_implementation
    if kind == "packed":
        # A 4D mask is taken as it is, which keeps Transformers from building one of T x T; `packed` does not read it.
        return {
            "segment_lengths": batch.lengths,
            "attention_mask": torch.empty(1, 1, 1, 1, device=batch.ids.device),
        }
    if kind == "flash_attention_2":
        return {}  # Transformers finds the sequences in position_ids
    segments = batch.segment_ids
    same = segments[:, None, :, None] == segments[:, None, None, :]  # (B, 1, T, T)
    allowed = same & torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril()
    if kind == "sdpa":
        return {"attention_mask": allowed}
    bias = torch.zeros(allowed.shape, dtype=model.dtype, device=same.device)
    return {"attention_mask": bias.masked_fill(~allowed, torch.finfo(model.dtype).min)}
