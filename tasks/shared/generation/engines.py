"""Opens the engine that a recipe names, with a checkpoint's weights."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.config.generation import PoolConfig
from tasks.shared.contract.environment import rank
from tasks.shared.contract.stage import Rendezvous, StageContext, StageResult
from tasks.shared.generation.protocol import Generator
from tasks.shared.traces.turns import stop_ids_of

if TYPE_CHECKING:
    from tasks.shared.generation.transformers_engine import TransformersGenerator


@contextmanager
def open_generator(
    config: GenerationConfig,
    model_config: ModelConfig,
    checkpoint: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    scratch: Path,
    rendezvous: Rendezvous | None = None,
    num_training: int = 0,
    can_sleep: bool = False,
    followed: bool = False,
) -> Iterator[Generator]:
    """Open a stage's engine: in its process, in a process beside it, or a pool of servers.

    Processes that it starts, in the first of several ranks alone, end with the block.

    `scratch` holds the servers' logs. Hosts of the `rendezvous` that only sample run servers too. The first
    `num_training` GPUs or cores of this host belong to the trainer; a stage that trains nothing (0) samples on every
    GPU that it was given, with a server on each. `followed`: show the tokens of unfinished pieces. ValueError, with
    the remedy, if the engine cannot run here.
    """
    from tasks.shared.generation.pool.server import gpus_of_host

    config = config if num_training else on_every_gpu(config, len(gpus_of_host()))
    if config.placement == "beside":
        from tasks.shared.generation.beside import BesideGenerator
        from tasks.shared.generation.follower import Follower

        if rank() > 0:
            yield Follower()
            return
        with closing(BesideGenerator(config, model_config, checkpoint)) as beside:
            yield beside
        return
    if config.placement == "inside":
        yield make_generator(config, model_config, checkpoint, tokenizer, can_sleep, followed)
        return
    from tasks.shared.generation.pool.opening import open_pool

    eos_ids = sorted(stop_ids_of(checkpoint, tokenizer))
    with open_pool(config, model_config, checkpoint, eos_ids, scratch, num_training, rendezvous) as pool:
        yield pool


def sample_for_others(
    context: StageContext[Any], config: GenerationConfig, model_config: ModelConfig, checkpoint: Path
) -> StageResult:
    """All that a sampling host does: run servers with this checkpoint until the first host is done."""
    from tasks.shared.generation.pool.hosts import keep_servers

    assert context.request.rendezvous is not None
    logs = Path(context.request.scratch) / "servers"
    keep_servers(context.request.rendezvous, config, model_config, checkpoint, logs)
    return StageResult(outputs={}, metrics={})


def on_every_gpu(config: GenerationConfig, gpus: int) -> GenerationConfig:
    """Use a vLLM server on each of `gpus` GPUs in place of vLLM inside the process, which has one GPU."""
    if config.engine != "vllm" or config.placement != "inside" or gpus < 2:
        return config
    return config.model_copy(update={"placement": "pool", "pool": PoolConfig(servers=gpus)})


def make_generator(
    config: GenerationConfig,
    model_config: ModelConfig,
    checkpoint: Path,
    tokenizer: PreTrainedTokenizerBase,
    can_sleep: bool = False,
    followed: bool = False,
) -> Generator:
    """An engine in this process. vLLM's can `sleep` or be `followed` if asked for.

    ValueError, with the remedy, if the engine cannot run here.
    """
    if config.engine == "vllm":
        from tasks.shared.generation.vllm_engine import VllmGenerator

        ends = sorted(stop_ids_of(checkpoint, tokenizer))
        return VllmGenerator(config, model_config, checkpoint, ends, can_sleep=can_sleep, followed=followed)
    return make_embedded(config, model_config, checkpoint, tokenizer)


def make_embedded(
    config: GenerationConfig,
    model_config: ModelConfig,
    checkpoint: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> "TransformersGenerator":
    """The Transformers engine in this process, on the GPU if there is one. ValueError if it cannot run the model."""
    import torch

    from tasks.shared.generation.transformers_engine import TransformersGenerator
    from tasks.shared.learning.checkpoints import load_model

    model = load_model(checkpoint, model_config)
    if torch.cuda.is_available():
        model = model.to(torch.device("cuda", torch.cuda.current_device()))  # type: ignore[arg-type]
    else:
        # The other half of the cores runs the programs meanwhile: two spinning OpenMP threads beside a busy sandbox on
        # two cores decode a tiny model ten times slower than one.
        torch.set_num_threads(min(torch.get_num_threads(), max(1, len(os.sched_getaffinity(0)) // 2)))
    return TransformersGenerator(model, tokenizer, config.max_sequences)
