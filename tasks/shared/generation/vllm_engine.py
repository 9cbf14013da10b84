"""The vLLM engine behind the `Generator` protocol: offline, in this process, GPU build or CPU build.

Feedback is appended as ids: an extended request is submitted again with all its ids, and the prefix cache keeps its
earlier computation. Weights are taken over in memory, tensor by tensor. vLLM 0.32's CPU build packs a tied output head
once and leaves it stale on reload (log-probs off by 0.17 and more); `refresh_tied_head` packs it again. Under a
launcher of ranks every rank has a whole engine of its own, on its own device.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.contract.environment import configure_vllm, world_size
from tasks.shared.generation.admission import Room
from tasks.shared.generation.protocol import Piece
from tasks.shared.generation.resubmission import Resubmits
from tasks.shared.generation.vllm_options import CPU_CACHE_GIB, engine_options, reason_of, sampling_options
from tasks.shared.generation.vllm_weights import fingerprints, refresh_tied_head

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs


class VllmGenerator(Resubmits):
    """Continuous batching by vLLM: a `Generator` that `HasRoom`, `Sleeps` and `NamesDifferences`.

    Raises ValueError: vLLM is not installed, or the model has too few positions for the recipe's lengths.
    """

    def __init__(
        self,
        config: GenerationConfig,
        model_config: ModelConfig,
        checkpoint: Path,
        eos_ids: Sequence[int],
        can_sleep: bool = False,
        followed: bool = False,
    ) -> None:
        """`followed`: show the tokens of unfinished pieces, at some cost per step."""
        super().__init__()
        options = engine_options(config, model_config, checkpoint)
        configure_vllm(CPU_CACHE_GIB)
        try:
            from vllm import LLM
        except ImportError as error:
            raise ValueError(
                f"generation.engine = 'vllm' but vLLM cannot be imported ({error}); "
                "install it (make setup-vllm) or set generation.engine = 'transformers'"
            ) from None
        self._llm = LLM(
            **options,
            # takes the launcher's ranks as they are and the device of LOCAL_RANK: no tensor parallelism
            distributed_executor_backend="external_launcher" if world_size() > 1 else None,
            # needs an allocator that the CPU build lacks
            enable_sleep_mode=can_sleep and torch.cuda.is_available(),
        )
        self._max_sequences = config.max_sequences
        self._asleep = False
        self._followed = followed
        self._engine = self._llm.llm_engine
        self._eos_ids = list(eos_ids)
        self._running: dict[str, str] = {}  # engine request id -> request id
        self._sampled: dict[str, Sequence[int]] = {}  # of unfinished pieces, if followed

    def sampled(self, request_id: str) -> Sequence[int]:
        """Ids of the unfinished piece if the engine was opened with `followed`, see `Follows`."""
        return self._sampled.get(request_id, ())

    def abort(self, request_id: str) -> None:
        """Abort a request, see `Aborts`."""
        running = [engine_id for engine_id, mine in self._running.items() if mine == request_id]
        self._engine.abort_request(running)
        for engine_id in running:
            del self._running[engine_id]
        self._sampled.pop(request_id, None)
        self.release(request_id)

    @property
    def room(self) -> Room:
        """Its sequences and the tokens of its cache."""
        cache = self._engine.vllm_config.cache_config
        assert cache.num_gpu_blocks, "the engine has not sized its cache"
        return Room(self._max_sequences, cache.num_gpu_blocks * cache.block_size)

    @property
    def num_running(self) -> int:
        """Requests queued or decoding."""
        return len(self._running)

    def step(self) -> list[Piece]:
        """One engine step; the pieces that ended."""
        pieces = []
        for output in self._engine.step():
            completion = output.outputs[0]
            if output.request_id not in self._running:  # aborted
                continue
            if not output.finished:
                self._sampled[self._running[output.request_id]] = completion.token_ids
                continue
            request_id = self._running.pop(output.request_id)
            self._sampled.pop(request_id, None)
            ids = tuple(completion.token_ids)
            logprobs = tuple(_of_tokens(completion.logprobs, ids))
            self._requests[request_id].ids += ids
            pieces.append(
                Piece(request_id, ids, logprobs, reason_of(completion.finish_reason, completion.stop_reason))
            )
        return pieces

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of every token given those before it (0.0 for the first), at temperature 1."""
        from vllm import SamplingParams

        assert not self._running, "scoring steps the engine: pieces of running requests would be lost"
        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True)
        prompts = [{"prompt_token_ids": list(ids)} for ids in sequences]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [
            [0.0, *_of_tokens(output.prompt_logprobs, ids[1:], first=1)]
            for output, ids in zip(outputs, sequences, strict=True)
        ]

    def sleep(self) -> None:
        """Drop weights and cache until `load_weights`; the CPU build keeps them and only logs a warning."""
        assert not self._running, "an engine with running requests cannot sleep"
        self._llm.sleep(level=2)  # keep no copy: other weights come next
        self._asleep = True

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over parameters by checkpoint name, in memory; drop cached prefixes of the old weights.

        Wakes a sleeping engine: allocates memory for the weights first and for the cache after loading, so that the
        tensors that the trainer gathers meanwhile fit too.
        """
        assert not self._running, "weights must not change under running requests"
        if self._asleep:
            _free_trainers_cache()
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": _copies(weights)})
        self._llm.collective_rpc(refresh_tied_head)
        if self._asleep:
            _free_trainers_cache()
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        self._llm.reset_prefix_cache()

    def differing(self, weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """Names, in vLLM's terms (q, k and v are one), of tensors that `load_weights(weights)` changes.

        Loads the weights. Copies that a kernel packed for itself are compared too.
        """
        before: dict[str, str] = self._llm.collective_rpc(fingerprints)[0]
        self.load_weights(weights)
        after: dict[str, str] = self._llm.collective_rpc(fingerprints)[0]
        return [name for name, digest in after.items() if before.get(name) != digest]

    def _submit(self, request_id: str, stop: str | None, max_new_tokens: int) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        assert not self._asleep, "a sleeping engine decodes nothing: load_weights wakes it"
        request = self._requests[request_id]
        engine_id = f"{request_id}#{request.turn}"
        params = SamplingParams(
            **sampling_options(
                request.sampling, request.seed, request.turn, stop, max_new_tokens, self._eos_ids
            ),
            output_kind=RequestOutputKind.CUMULATIVE if self._followed else RequestOutputKind.FINAL_ONLY,
            flat_logprobs=True,  # lists of numbers instead of an object and a dictionary for each token
        )
        self._engine.add_request(engine_id, {"prompt_token_ids": request.ids}, params)
        self._running[engine_id] = request_id


def _of_tokens(flat: "FlatLogprobs", ids: Sequence[int], first: int = 0) -> list[float]:
    """Log-probs of the tokens `ids` from position `first` on: the first entry of each position is the token's own."""
    starts = flat.start_indices[first:]
    assert [flat.token_ids[start] for start in starts] == list(ids), "log-probs of other tokens"
    return [flat.logprobs[start] for start in starts]


def _free_trainers_cache() -> None:
    """Free the memory that torch's allocator keeps, because vLLM takes its memory from the driver."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _copies(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Copy each tensor: vLLM holds it until a layer is complete (q, k, v), longer than ZeRO-3 keeps it gathered."""
    for name, tensor in weights:
        yield name, tensor.detach().clone()
