"""The seconds of an RL step, estimated before anything runs from lengths, memory bandwidth and FLOPs.

Each engine step of decoding reads the weights and the cached keys and values once. It takes the longer of that and of
the matrix products (roofline). So a step of few rows costs as much as reading the weights, and the longest response
decides when a batch ends. Training counts 2 FLOPs a parameter and token forward, twice that backward (arXiv 2001.08361,
section 2.1), plus attention's share. Values without a data sheet are the assumptions below, which `assumptions` lists
with every estimate.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from statistics import NormalDist

import numpy as np

from data.gpus import Gpu
from data.models import ModelShape

# Assumptions, none of them measured here. Shares of the data sheet's value:
BANDWIDTH_SHARE = 0.7  # of memory bandwidth, while decoding
DECODING_SHARE = 0.6  # of dense FLOPs, while decoding many rows
TRAINING_SHARE = 0.4  # of dense FLOPs, in training and in passes without gradients; 0.15 to 0.55 is published
# Seconds and bytes a second:
ENGINE_STEP_S = 0.006  # an engine's own work for each of its steps: schedule, launch, sample, answer
REDUCTION_S = 15e-6  # one all-reduce of a step's activations between the GPUs of a server
HOST_LINK = 50e9  # between hosts, for each GPU: 400 Gbit/s
INNER_LINK = 300e9  # between the GPUs of a host
PCIE = 20e9
HOST_MEMORY = 200e9  # of a host, shared by its GPUs: what an offloaded optimizer works at
WEIGHTS_OVER = 20e9  # a weight sync, gathered and taken up
BESIDES_S = 5.0  # of a step: grading, the probe, sleep and waking, logging
GPUS_A_HOST = 8


@dataclass(frozen=True, slots=True)
class Work:
    """The samples of a step; values outside the recipe are assumptions about the model and its problems."""

    trajectories: int
    mean_tokens: float  # of a response
    most_tokens: int  # a response is cut there
    tail: float = 5.0  # 99th percentile over median, before the cut
    prompt_tokens: float = 300.0
    calls: float = 3.0  # of the interpreter in a mean response, more in a longer one in proportion
    most_calls: int = 16
    call_s: float = 1.0

    def lengths(self, count: int) -> np.ndarray:
        """(count,) response tokens: even quantiles of a log-normal that is cut at `most_tokens` and has the given mean.

        The median is found by bisection. ValueError if no median gives the mean, or for an impossible tail or call.
        """
        if not (1 <= self.tail < inf and 0 <= self.call_s < inf):
            raise ValueError(
                f"tail = {self.tail:g}, call = {self.call_s:g} s: give a tail from 1 on, and seconds from 0 on"
            )
        if not 0 < self.mean_tokens < self.most_tokens:
            raise ValueError(
                f"mean response of {self.mean_tokens:g} tokens: give one between 0 and the longest, {self.most_tokens}"
            )
        sigma = np.log(self.tail) / NormalDist().inv_cdf(0.99)
        normal = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])
        low, high = 1.0, 1e3 * self.most_tokens
        for _ in range(60):
            median = (low * high) ** 0.5
            lengths = np.minimum(median * np.exp(sigma * normal), self.most_tokens)
            low, high = (median, high) if lengths.mean() < self.mean_tokens else (low, median)
        return lengths

    def calls_of(self, tokens: float) -> float:
        """Calls in a response of that length."""
        return min(self.most_calls, self.calls * tokens / self.mean_tokens)


@dataclass(frozen=True, slots=True)
class Engines:
    """The sampler: `count` engines of `tensor_parallel` GPUs each, with at most `slots` rows each."""

    count: int
    tensor_parallel: int
    slots: int


@dataclass(frozen=True, slots=True)
class Trainer:
    """The trainer."""

    ranks: int
    zero_stage: int = 2
    row_tokens: int = 16384
    updates: int = 1  # optimizer steps of an RL step
    # over all tokens without gradients: old log-probs, a reference, a critic's values
    forward_passes: int = 0
    models: int = 1  # that are updated; 2 with a critic
    checkpointing: bool = True
    adapters: bool = False  # the weights' own gradients are not computed
    offload: bool = False
    offload_while_sampling: bool = False


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of the parts of an RL step."""

    sample: float  # from the first request to the end of the longest response
    steady: float  # for as many samples with engines that are always full, as in an asynchronous round
    forward: float
    update: float
    sync: float

    @property
    def train(self) -> float:
        """The time of the trainer's GPUs."""
        return self.forward + self.update

    @property
    def synchronous(self) -> float:
        """One part after the other: on-policy."""
        return self.sample + self.train + self.sync + BESIDES_S

    @property
    def asynchronous(self) -> float:
        """Sampler and trainer side by side: the slower one decides."""
        return max(self.steady, self.train) + self.sync + BESIDES_S


def step_seconds(
    work: Work, shape: ModelShape, gpu: Gpu, engines: Engines, trainer: Trainer, size: int = 2
) -> StepSeconds:
    """The estimate; `size`: bytes of a weight."""
    forward, update = training_seconds(work, shape, gpu, trainer, size)
    return StepSeconds(
        sample=sampling_seconds(work, shape, gpu, engines, size),
        steady=steady_seconds(work, shape, gpu, engines, size),
        forward=forward,
        update=update,
        sync=size * shape.num_parameters / WEIGHTS_OVER,
    )


@dataclass(frozen=True, slots=True)
class Pace:
    """The seconds of an engine's step: the longer of reading and multiplying, plus its own work.

    Each field is for a step, a row or a cached token.
    """

    weights_read: float
    token_read: float
    row_products: float
    token_products: float
    own: float

    @classmethod
    def of(cls, shape: ModelShape, gpu: Gpu, tensor_parallel: int, size: int = 2) -> "Pace":
        """Of an engine of `tensor_parallel` GPUs; `size`: bytes of a weight, and of a cached number."""
        bandwidth = tensor_parallel * gpu.bandwidth * BANDWIDTH_SHARE
        flops = tensor_parallel * gpu.flops * DECODING_SHARE
        alone = forward_flops(shape, 0)
        return cls(
            weights_read=size * shape.num_parameters / bandwidth,
            token_read=size * 2 * shape.layers * shape.key_value_size / bandwidth,
            row_products=alone / flops,
            token_products=(forward_flops(shape, 1) - alone) / flops,
            own=ENGINE_STEP_S + (2 * shape.layers * REDUCTION_S if tensor_parallel > 1 else 0.0),
        )

    def step_s(self, rows: float, context: float) -> float:
        """Of a step that decodes `rows` rows with `context` cached tokens in all."""
        memory = self.weights_read + context * self.token_read
        compute = rows * self.row_products + context * self.token_products
        return max(memory, compute) + self.own


def forward_flops(shape: ModelShape, context: float) -> float:
    """Of one token that attends to `context` others: 2 a weight, 4 a layer, query width and attended token."""
    body = shape.layers * shape.layer_parameters + shape.head_parameters
    return 2 * body + 4 * shape.layers * shape.query_size * context


def sampling_seconds(work: Work, shape: ModelShape, gpu: Gpu, engines: Engines, size: int) -> float:
    """The engine with a batch's longest response, simulated: each row starts as soon as a slot is free.

    The step waits for the longest response's calls of the interpreter; other rows hide the calls of the rest.
    """
    share = work.lengths(work.trajectories)[::-1][:: engines.count]
    waiting = np.random.Generator(np.random.Philox(0)).permutation(share).tolist()
    longest = max(waiting)
    pace = Pace.of(shape, gpu, engines.tensor_parallel, size)
    rows: list[
        tuple[float, float]
    ] = []  # a heap of decoding rows: the engine steps at which they end and began
    now = seconds = context = 0.0  # steps of the engine, seconds, cached tokens of all rows
    while waiting or rows:
        while waiting and len(rows) < engines.slots:
            heappush(rows, (now + waiting.pop(), now))
            context += work.prompt_tokens
        end, begin = heappop(rows)
        steps, decoding = end - now, len(rows) + 1
        middle = context + decoding * steps / 2
        seconds += steps * pace.step_s(decoding, middle)
        context += decoding * steps - (end - begin) - work.prompt_tokens
        now = end
    return seconds + work.calls_of(longest) * work.call_s


def steady_seconds(work: Work, shape: ModelShape, gpu: Gpu, engines: Engines, size: int) -> float:
    """As many samples from engines that are always full: tokens divided by the rate at the mean context.

    Rows that wait for the interpreter do not decode meanwhile.
    """
    rows = float(min(engines.slots, -(-work.trajectories // engines.count)))
    lengths = work.lengths(256)
    # On average a row is in the middle of its response, and long responses are met in proportion to their length.
    context = work.prompt_tokens + float((lengths**2).mean() / lengths.mean()) / 2
    pace = Pace.of(shape, gpu, engines.tensor_parallel, size)
    step = pace.step_s(rows, rows * context)
    busy = work.mean_tokens * step / (work.mean_tokens * step + work.calls * work.call_s)
    step = pace.step_s(rows * busy, rows * context)
    return work.trajectories * work.mean_tokens * step / (engines.count * rows * busy)


def training_seconds(
    work: Work, shape: ModelShape, gpu: Gpu, trainer: Trainer, size: int
) -> tuple[float, float]:
    """(passes without gradients, updates): the longer of the products and of ZeRO-3's gathering.

    An update is a forward pass, a backward pass of twice its products (once with adapters), and with checkpointing
    another forward pass. An offloaded optimizer reads and writes 28 bytes a parameter in the host's memory and moves 6
    over PCIe; offloaded while sampling, it moves 16 there and back once a step.
    """
    lengths = work.lengths(256) + work.prompt_tokens
    tokens = work.trajectories * float(lengths.mean())
    context = float((lengths**2).mean() / lengths.mean()) / 2
    one_pass = tokens * forward_flops(shape, context) / (trainer.ranks * gpu.flops * TRAINING_SHARE)
    gather = 0.0
    if trainer.zero_stage == 3:
        link = HOST_LINK if trainer.ranks > GPUS_A_HOST else INNER_LINK
        rows = -(-tokens // (trainer.row_tokens * trainer.ranks))
        gather = rows * size * shape.num_parameters / link
    backward = 1.0 if trainer.adapters else 2.0
    passes = 1 + backward + trainer.checkpointing
    update = max(passes * one_pass, (passes + 1) * gather)  # + 1: gradients are scattered
    if trainer.offload:
        hosts = -(-trainer.ranks // GPUS_A_HOST)
        a_parameter = 28 / hosts / HOST_MEMORY + 6 / trainer.ranks / PCIE
        update += trainer.updates * shape.num_parameters * a_parameter
    if trainer.offload_while_sampling:
        update += 2 * 16 * shape.num_parameters / trainer.ranks / PCIE
    return trainer.forward_passes * max(one_pass, gather), trainer.models * update


def assumptions(work: Work, gpu: Gpu) -> dict[str, str]:
    """The assumptions of an estimate, by name."""
    reached = f"{BANDWIDTH_SHARE:.0%} reached"
    shares = f"{DECODING_SHARE:.0%} decoding, {TRAINING_SHARE:.0%} training"
    cut = f"p99 {work.tail:g} x median, at most {work.most_tokens:,}"
    links = f"{HOST_LINK / 1e9:g} GB/s a GPU between hosts, {INNER_LINK / 1e9:g} within, {PCIE / 1e9:g} PCIe"
    return {
        "response tokens": f"mean {work.mean_tokens:,.0f}, {cut}",
        "prompt tokens": f"{work.prompt_tokens:,.0f}",
        "calls": f"{work.calls:g} in a mean response, {work.call_s:g} s each",
        gpu.name.upper(): f"{gpu.bandwidth / 1e12:g} TB/s ({reached}), {gpu.flops / 1e12:,.0f} TFLOPS ({shares})",
        "an engine's step": f"{1e3 * ENGINE_STEP_S:g} ms of its own, {1e6 * REDUCTION_S:g} us an all-reduce",
        "links": links,
        "weight sync": f"{WEIGHTS_OVER / 1e9:g} GB/s; grading, probe and log {BESIDES_S:g} s a step",
    }
