"""Log-probs and entropies of the target tokens of a packed row, for SFT, policy updates and the weight probe.

Only target positions go through the model's own output head, a bounded piece at a time. So memory grows with the token
budget and not with budget x vocabulary. Attention is confined to each sequence: by a loop of SDPA calls over the
sequences (`packed_attention.py`, set by `use_packed_attention`), by flash-attention's variable-length kernel, or by the
mask that Transformers builds from the positions for any other implementation.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tasks.shared.learning.own_forward import has_recurrent_state
from tasks.shared.learning.own_head import own_logits
from tasks.shared.learning.packed_attention import ATTENTION, packed_row, register_packed_attention
from tasks.shared.learning.packing import PackedBatch

# Logits held at once, in elements: 0.5 GB in float32. Rows that need more recompute their logits in the backward pass.
MAX_LOGITS = 2**27


class TokenScores(NamedTuple):
    """Per-token results, 0 where `batch.loss_mask` is False."""

    logprobs: torch.Tensor  # (B, T) float32: log-prob of ids[t] given the ids before t in its sequence
    entropy: torch.Tensor | None  # (B, T) float32, in nats: entropy of the distribution that predicts ids[t]


class TokenHead(nn.Module):
    """The model's own output head and its scores, as one module whose weights ZeRO-3 gathers once a row.

    If ZeRO-3 gathered them for each piece, ranks would gather differently often, as they have different numbers of
    targets. The model is not registered as a child, so that a state has each weight under one name.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._model = (model,)
        self._vocabulary = model.config.get_text_config().vocab_size

    @property
    def weights(self) -> tuple[nn.Parameter, ...]:
        """The parameters of another module that a forward pass uses."""
        return tuple(self._model[0].get_output_embeddings().parameters())

    def forward(
        self, states: torch.Tensor, ids: torch.Tensor, temperature: float, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) log-probs of `ids` (N,) after `states` (N, H), and entropies, (0,) unless asked for."""

        def score(states: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = own_logits(self._model[0], states).float() / temperature  # (n, V)
            logprobs = -cross_entropy(logits, ids, reduction="none")
            if not with_entropy:
                return logprobs, logprobs.new_zeros(0)
            log_distribution = logits.log_softmax(-1)
            return logprobs, -(log_distribution.exp() * log_distribution).sum(-1)

        rows = max(1, MAX_LOGITS // self._vocabulary)
        if len(ids) <= rows:
            return score(states, ids)
        pieces = [
            checkpoint(score, *piece, use_reentrant=False)
            for piece in zip(states.split(rows), ids.split(rows), strict=True)
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

    `head`: the `TokenHead` that ZeRO-3 knows, if there is one.
    """
    before = target_states(model, batch)  # (N, H)
    head = head or TokenHead(model)
    logprobs, entropy = head(before, batch.ids[batch.loss_mask], temperature, with_entropy)
    scores = scatter_targets(batch, logprobs)
    return TokenScores(scores, scatter_targets(batch, entropy) if with_entropy else None)


def target_states(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """(N, H) last hidden states from which the N target tokens are predicted, in row order."""
    mask = None  # Transformers finds the sequences in position_ids
    if model.config._attn_implementation == ATTENTION:
        # All tokens are visible. Without a mask Transformers would look for the sequences and make masks of T x T.
        mask = torch.ones_like(batch.ids)
    with packed_row(batch.lengths):
        hidden = model.base_model(
            input_ids=batch.ids, position_ids=batch.position_ids, attention_mask=mask, use_cache=False
        ).last_hidden_state  # (B, T, H)
    # Token t is predicted at t - 1; targets never start a sequence, so that is in the same sequence.
    return hidden[:, :-1][batch.loss_mask[:, 1:]]


def scatter_targets(batch: PackedBatch, values: torch.Tensor) -> torch.Tensor:
    """(N,) values of the target tokens as (B, T), 0 elsewhere."""
    zeros = torch.zeros(batch.ids.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(batch.loss_mask, values)


def use_packed_attention(model: PreTrainedModel) -> None:
    """Confine SDPA attention to each packed sequence without a mask; other uses of the model stay as they were."""
    if model.config._attn_implementation == "sdpa" and not has_recurrent_state(model):
        register_packed_attention()
        model.set_attn_implementation(ATTENTION)
