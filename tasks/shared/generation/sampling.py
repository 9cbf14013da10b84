"""Draws tokens: every request has its own stream of uniforms, turned into tokens by inverse CDF over the batch.

A request's draws depend only on its seed and its own distribution, never on other requests.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tasks.shared.generation.protocol import Sampling

BLOCK = 256  # uniforms drawn from a stream at a time


def uniform_stream(seed: int) -> Iterator[float]:
    """Endless uniforms in [0, 1) from a Philox generator of this seed: one for every token sampled."""
    generator = np.random.Generator(np.random.Philox(seed=seed))
    while True:
        yield from generator.random(BLOCK).tolist()


def draw(
    logits: torch.Tensor, uniforms: Sequence[float], samplings: Sequence[Sampling]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row by inverse CDF. logits: (n, V); returns ids (n,) and log-probs (n,), float32.

    The log-prob is under the distribution that was sampled from: logits over temperature, cut to the top-p nucleus and
    renormalised; with temperature 1 and top-p 1 the model's own. For greedy rows (temperature 0) it is the model's own
    too, because their distribution is a point. The sum runs in float64: 1e5 float32 terms would shift the tail.
    """
    logits = logits.float()
    greedy = [sampling.temperature == 0 for sampling in samplings]
    plain = all(sampling.temperature == 1 and sampling.top_p == 1 for sampling in samplings)
    if not plain:
        temperatures = [sampling.temperature or 1.0 for sampling in samplings]
        logits = logits / torch.tensor(temperatures, device=logits.device)[:, None]
    logprobs = torch.log_softmax(logits, dim=-1)
    if any(sampling.top_p < 1 and sampling.temperature for sampling in samplings):
        top_p = [sampling.top_p if sampling.temperature else 1.0 for sampling in samplings]
        logprobs = _nucleus(logprobs, torch.tensor(top_p, dtype=torch.float64, device=logits.device))
    cumulative = logprobs.double().exp_().cumsum(dim=-1)  # (n, V)
    uniform = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]
    # right=True: the first token whose cumulative probability is above u, hence never one of probability 0
    ids = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    ids.clamp_(max=logits.shape[-1] - 1)
    if any(greedy):
        best = logprobs.argmax(dim=-1, keepdim=True)
        ids = torch.where(torch.tensor(greedy, device=logits.device)[:, None], best, ids)
    return ids[:, 0], logprobs.gather(1, ids)[:, 0]


def _nucleus(logprobs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep the fewest most probable tokens whose probabilities reach top_p (n,), renormalised; the rest -inf."""
    ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.double().exp()
    before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill(before >= top_p[:, None], -torch.inf)
    ordered = ordered - ordered.logsumexp(dim=-1, keepdim=True)
    return torch.empty_like(logprobs).scatter_(1, order, ordered)
