"""The memory of a recipe on each GPU, phase by phase: pure arithmetic over shapes and the configuration.

Sources: model states and their sharding, ZeRO (arXiv 1910.02054, section 3); activations counted as in arXiv
2205.05198, but for Qwen2's layer as Transformers runs it (SwiGLU, SDPA that stores no scores), which a test holds
against what autograd really saves; KV cache 2 x layers x key-value width a token. Bytes; M parameters, N ranks.
"""

from dataclasses import dataclass, fields, replace

from data.models import ModelShape
from tasks.recipes import Recipe
from tasks.shared.config import OptimizerConfig

GIB = 2**30
# For CUDA context, NCCL's buffers and the allocator's fragments: an allowance, not a measurement.
ALLOWANCE = 2 * GIB
# DeepSpeed's defaults, in elements: two buckets that gradients are reduced in, parameters kept whole under ZeRO-3.
BUCKET_ELEMENTS = 500_000_000
LIVE_ELEMENTS = 1_000_000_000
# Logits held at once (tasks/shared/learning/logprobs.py) and the bytes of each: in the model's precision, in float32,
# divided by the temperature, log-softmax, their gradients, and another distribution for the entropy.
LOGITS_HELD = 2**27
BYTES_PER_LOGIT = 28
# The same without gradients, as in the probe. vLLM's prompt log-probs: the model's precision, float32, log-softmax, of
# all tokens of a sequence that is probed (tasks/rl/probe.py).
FORWARD_BYTES_PER_LOGIT = 14
PROMPT_BYTES_PER_LOGIT = 10
PROBED_SEQUENCES, PROBED_TOKENS = 4, 2048
# A weight in four bits with its share of the scales: 8 bits for 64 weights, 32 bits for 256 scales (arXiv 2305.14314).
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
# Tokens of one step of vLLM's on a GPU of 70 GiB or more, and what its CUDA graphs take: an allowance. They stay while
# it sleeps, which frees weights and cache alone.
SCHEDULED_TOKENS = 16384
GRAPHS = 2 * GIB


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU in one phase."""

    weights: int = 0  # policy, as trained
    gradients: int = 0
    optimizer: int = 0  # float32 master weights and Adam's two moments
    critic: int = 0  # its weights, gradients and optimizer
    reference: int = 0
    sampler: int = 0  # vLLM: weights, KV cache, its own buffers
    activations: int = 0
    logits: int = 0
    buffers: int = 0  # communication
    allowance: int = ALLOWANCE

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a recipe on one GPU."""

    name: str
    memory: Memory
    host: int = 0  # bytes of host memory for each GPU: offloaded optimizer state


@dataclass(frozen=True, slots=True)
class Sampling:
    """The KV cache in the sampler's share of a GPU, beside weights, a step's activations and CUDA graphs."""

    cache: int  # bytes for keys and values
    bytes_per_token: int
    sequences: int  # whole sequences (prompt and response at their largest) that fit at once
    least: int  # bytes of a share that holds one such sequence: weights, a step, CUDA graphs, keys and values


def element_size(dtype: str) -> int:
    """Bytes of a number."""
    return {"float32": 4, "bfloat16": 2}[dtype]


def adapter_parameters(shape: ModelShape, config: OptimizerConfig) -> int:
    """L: two factors of rank r in each target, r (in + out); 0 if every weight is trained."""
    if config.lora is None:
        return 0
    widths = [sum(shape.linear_layers[name]) for name in _adapted(shape, config)]
    return shape.layers * config.lora.rank * sum(widths)


def frozen_bytes(shape: ModelShape, config: OptimizerConfig, size: int) -> int:
    """The weights under adapters; in four bits all but embedding, norms, biases and head. 0 without adapters."""
    if config.lora is None:
        return 0
    packed = shape.layers * sum(_weights(shape).values()) if config.lora.base == "nf4" else 0
    return size * (shape.num_parameters - packed) + round(NF4_BYTES * packed)


def _weights(shape: ModelShape) -> dict[str, int]:
    """Of each linear layer of one layer."""
    return {name: inputs * outputs for name, (inputs, outputs) in shape.linear_layers.items()}


def trained_parameters(shape: ModelShape, config: OptimizerConfig) -> int:
    """M: the adapters' parameters, or all."""
    return adapter_parameters(shape, config) or shape.num_parameters


def _adapted(shape: ModelShape, config: OptimizerConfig) -> list[str]:
    """Names of the linear layers with adapters."""
    assert config.lora is not None
    targets = config.lora.targets
    return [name for name in shape.linear_layers if targets == "all-linear" or name in targets]


def training_states(
    parameters: int, size: int, config: OptimizerConfig, ranks: int, frozen: int = 0
) -> tuple[int, int, int, int]:
    """(weights, gradients, optimizer, host) in bytes on one rank; M parameters are trained.

    Weights: size M and `frozen` bytes, under stage 3 both / N. Gradients, summed up in float32: 4 M, from stage 2 on
    4 M / N. Optimizer: 12 M / N (master weights, two moments); without ZeRO, in float32, the weights are the master:
    8 M. `offload` moves the optimizer's share to the host, together with its gradients.
    """
    stage = config.zero_stage
    share = -(-parameters // ranks)
    weights = size * parameters + frozen
    weights = -(-weights // ranks) if stage == 3 else weights
    gradients = 4 * (share if stage >= 2 else parameters)
    optimizer = 8 * parameters if stage == 0 else 12 * share
    if config.offload:
        return weights, 0 if stage >= 2 else gradients, 0, optimizer + gradients
    return weights, gradients, optimizer, 0


def saved_state(parameters: int, size: int, config: OptimizerConfig) -> int:
    """Bytes of a checkpoint to resume from, of all ranks: master weights and two moments, 12 M.

    Stages 1 and 2 add the weights in the model's precision; under stage 3 they come from the master weights.
    """
    return parameters * (12 + (size if config.zero_stage in (1, 2) else 0))


def communication_buffers(
    trained: int, size: int, config: OptimizerConfig, ranks: int, frozen: int = 0
) -> int:
    """Two reduction buckets of what is trained, and under stage 3 the parameters gathered at once."""
    if ranks == 1:
        return 0
    buckets = 2 * size * min(trained, BUCKET_ELEMENTS)
    return buckets + (size * min(trained + frozen, LIVE_ELEMENTS) if config.zero_stage == 3 else 0)


def layer_activations(shape: ModelShape, tokens: int, size: int) -> int:
    """Bytes that one layer keeps for its backward pass, for `tokens` tokens.

    Each norm keeps its input and the normalised states in float32 and in the model's precision, those over heads too;
    attention its input, q, k, v, its output and the log-sum of each head; the output projection its input; SwiGLU its
    input, gate, the activated gate, up and their product.
    """
    hidden, query, key_value = shape.hidden_size, shape.query_size, shape.key_value_size
    norms = 2 * (4 * hidden + size * hidden)
    if shape.architecture == "qwen3":  # of q and k
        norms += (4 + size) * (query + key_value)
    attention = size * (hidden + 3 * query + 2 * key_value) + 4 * shape.heads
    swiglu = size * (hidden + 4 * shape.intermediate_size)
    return tokens * (norms + attention + swiglu)


def activations(shape: ModelShape, tokens: int, size: int, checkpointing: bool) -> int:
    """Bytes kept for the backward pass of a row of `tokens` tokens.

    All layers; with checkpointing each layer's input, size H a token, and one layer at a time in full.
    """
    layer = layer_activations(shape, tokens, size)
    if checkpointing:
        return shape.layers * tokens * size * shape.hidden_size + layer
    return shape.layers * layer


def logits(shape: ModelShape, tokens: int) -> int:
    """Bytes of the logits that are held at once, with the tensors computed from them."""
    return BYTES_PER_LOGIT * min(tokens * shape.vocabulary, max(LOGITS_HELD, shape.vocabulary))


def cache_bytes_per_token(shape: ModelShape, size: int) -> int:
    """Keys and values of one token in all layers: 2 x layers x K x size."""
    return 2 * shape.layers * shape.key_value_size * size


def sampler(recipe: Recipe, shape: ModelShape, gpu: int) -> Sampling:
    """The keys and values that `gpu_memory_utilization` of a GPU of `gpu` bytes leaves room for.

    Tensor parallelism splits weights, a step's activations and the cache, but not the logits.
    """
    size, generation = element_size(recipe.model.dtype), recipe.generation
    parts = tensor_parallel(recipe)
    step = size * SCHEDULED_TOKENS * (3 * shape.intermediate_size + 4 * shape.hidden_size) // parts
    step += PROMPT_BYTES_PER_LOGIT * generation.max_sequences * shape.vocabulary
    weight = 1 if generation.pool.quantization == "fp8" else size
    taken = weight * shape.num_parameters // parts + step + GRAPHS
    cache = int(generation.gpu_memory_utilization * gpu) - taken
    per_token = -(-cache_bytes_per_token(shape, size) // parts)
    longest = generation.max_prompt_tokens + generation.max_response_tokens
    return Sampling(cache, per_token, max(0, cache // (per_token * longest)), taken + per_token * longest)


def tensor_parallel(recipe: Recipe) -> int:
    """GPUs of one engine; an engine inside has one."""
    return recipe.generation.pool.tensor_parallel if recipe.generation.placement == "pool" else 1


def training_memory(
    shape: ModelShape, dtype: str, config: OptimizerConfig, ranks: int, row_tokens: int
) -> tuple[Memory, int]:
    """A training step's memory on one rank: GPU and host."""
    size = element_size(dtype)
    trained = trained_parameters(shape, config)
    base = shape.num_parameters if config.lora is not None else 0
    frozen = frozen_bytes(shape, config, size)
    weights, gradients, optimizer, host = training_states(trained, size, config, ranks, frozen)
    kept = activations(shape, row_tokens, size, config.gradient_checkpointing)
    if config.lora is not None:
        # Each adapter keeps the output of its first factor; with checkpointing, of one layer at a time.
        layers = 1 if config.gradient_checkpointing else shape.layers
        kept += layers * row_tokens * size * config.lora.rank * len(_adapted(shape, config))
        if config.lora.base == "nf4":
            kept += size * max(_weights(shape).values())  # the layer that is unpacked
    memory = Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=kept,
        logits=logits(shape, row_tokens),
        buffers=communication_buffers(trained, size, config, ranks, base),
    )
    return memory, host


def sft_phase(recipe: Recipe, shape: ModelShape, ranks: int) -> Phase:
    """One micro-batch of SFT."""
    sft = recipe.sft
    memory, host = training_memory(
        shape, recipe.model.dtype, sft.optimizer, ranks, sft.tokens_per_micro_batch
    )
    return Phase("sft", memory, host)


def rl_phases(recipe: Recipe, shape: ModelShape, ranks: int, gpu: int) -> list[Phase]:
    """Start, sampling, update and probe of an RL step; a sleeping vLLM keeps only its CUDA graphs during the update.

    With a pool, ranks and servers have different GPUs; the servers' phases are `pool sample` and `pool probe`. At the
    start the sampler is awake while the trainer is loaded: under stage 3 a parameter at a time, twice with its slices.
    The trainer stays on the GPU during sampling and probe. With `rl.offload_while_sampling` the sampler sleeps at the
    start, and while it is awake only the trainer's weights stay on the GPU.
    """
    rl, size = recipe.rl, element_size(recipe.model.dtype)
    step, host = training_memory(shape, recipe.model.dtype, rl.optimizer, ranks, rl.tokens_per_micro_batch)
    critic = critic_weights = 0
    if rl.algorithm == "ppo":
        *states, critic_host = training_states(critic_parameters(shape), size, rl.optimizer, ranks)
        critic, critic_weights, host = sum(states), states[0], host + critic_host
    trainer = {
        "weights": step.weights,
        "gradients": step.gradients,
        "optimizer": step.optimizer,
        "critic": critic,
        # The base of adapters is the reference.
        "reference": size * shape.num_parameters if rl.kl_coefficient and not rl.optimizer.lora else 0,
    }
    probed = min(PROBED_TOKENS, recipe.generation.max_prompt_tokens + recipe.generation.max_response_tokens)
    forward = forward_memory(shape, PROBED_SEQUENCES * probed, size)
    prompt_logits = PROMPT_BYTES_PER_LOGIT * probed * shape.vocabulary
    awake = sampler_memory(recipe, shape, gpu)
    if recipe.generation.placement == "pool":
        start = Memory(**trainer, buffers=2 * size * shape.head_parameters)
        update = Memory(**trainer, buffers=step.buffers, activations=step.activations, logits=step.logits)
        probe = Memory(**trainer, buffers=step.buffers, activations=forward[0], logits=forward[1])
        named = {"rl start": start, "rl update": update, "rl probe": probe}
        servers = {
            "pool sample": Memory(sampler=awake),
            "pool probe": Memory(sampler=awake, logits=prompt_logits),
        }
        trained = [Phase(name, memory, host) for name, memory in named.items()]
        return [*trained, *(Phase(name, memory) for name, memory in servers.items())]
    asleep = GRAPHS if rl.sleep_sampler else awake
    stays = trainer | (
        {"gradients": 0, "optimizer": 0, "critic": critic_weights} if rl.offload_while_sampling else {}
    )
    host += sum(trainer.values()) - sum(stays.values())
    at_start = asleep if rl.offload_while_sampling else awake
    start = Memory(**trainer, sampler=at_start, buffers=2 * size * shape.head_parameters)
    sample = Memory(**stays, sampler=awake, buffers=step.buffers)
    update = Memory(
        **trainer, sampler=asleep, buffers=step.buffers, activations=step.activations, logits=step.logits
    )
    probe = replace(sample, activations=forward[0], logits=max(forward[1], prompt_logits))
    named = {"rl start": start, "rl sample": sample, "rl update": update, "rl probe": probe}
    return [Phase(name, memory, host) for name, memory in named.items()]


def critic_parameters(shape: ModelShape) -> int:
    """PPO's critic: the body without an untied output head, and one output a token."""
    unused = 0 if shape.tied else shape.head_parameters
    return shape.num_parameters - unused + shape.hidden_size


def forward_memory(shape: ModelShape, tokens: int, size: int) -> tuple[int, int]:
    """Activations and logits of a pass without gradients: one layer at a time, one piece of logits."""
    held = min(tokens * shape.vocabulary, max(LOGITS_HELD, shape.vocabulary))
    return layer_activations(shape, tokens, size), FORWARD_BYTES_PER_LOGIT * held


def sampler_memory(recipe: Recipe, shape: ModelShape, gpu: int) -> int:
    """The engine's memory on its GPU: vLLM's share, or more if that does not hold one sequence; the embedded engine's
    weights and a cache for every slot."""
    size, generation = element_size(recipe.model.dtype), recipe.generation
    if generation.engine == "vllm":
        return max(int(generation.gpu_memory_utilization * gpu), sampler(recipe, shape, gpu).least)
    longest = generation.max_prompt_tokens + generation.max_response_tokens
    cache = generation.max_sequences * longest * cache_bytes_per_token(shape, size)
    return size * shape.num_parameters + cache


def evaluate_phase(recipe: Recipe, shape: ModelShape, gpu: int) -> Phase:
    """Evaluation: only the sampler, with the lengths of evaluation."""
    longest = recipe.evaluate.max_response_tokens or recipe.generation.max_response_tokens
    generation = recipe.generation.model_copy(update={"max_response_tokens": longest})
    limited = recipe.model_copy(update={"generation": generation})
    return Phase("evaluate", Memory(sampler=sampler_memory(limited, shape, gpu)))
