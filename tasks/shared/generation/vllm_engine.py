"""The vLLM engine behind the `Generator` protocol: offline, in this process, GPU build or CPU build.

Feedback goes in as ids: an extended request is submitted again with all its ids, and the prefix cache keeps what was
computed. Weights are taken over in memory, tensor by tensor. vLLM 0.32's CPU build packs a tied output head once and
leaves it stale on reload (log-probs off by 0.17 and more); `_refresh_tied_head` packs it anew. Under a launcher of
ranks every rank has a whole engine of its own, on its own device.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.environment import configure_vllm, world_size
from tasks.shared.generation.protocol import Piece, Sampling

if TYPE_CHECKING:
    import torch

CPU_CACHE_GIB = 2
# The prefix cache keeps whole blocks: with the CPU build's 128 tokens an extended request would be computed anew from
# the last multiple of 128 on, which for short responses is all of it. Its attention takes multiples of 32.
CPU_BLOCK_TOKENS = 32


@dataclass(slots=True)
class _Request:
    """A request over its turns."""

    ids: list[int]  # prompt, sampled and feedback ids so far
    sampling: Sampling
    seed: int
    turn: int = 0


class VllmGenerator:
    """Continuous batching by vLLM: a `Generator` that `Sleeps` and `NamesDifferences`.

    Raises ValueError: vLLM is not installed, or the model has too few positions for the recipe's lengths.
    """

    def __init__(
        self,
        config: GenerationConfig,
        model_config: ModelConfig,
        checkpoint: Path,
        eos_ids: Sequence[int],
        can_sleep: bool = False,
    ) -> None:
        # one more: scoring makes vLLM sample a token after the sequence
        num_positions = config.max_prompt_tokens + config.max_response_tokens + 1
        _require_positions(checkpoint, num_positions)
        configure_vllm(CPU_CACHE_GIB)
        import torch

        try:
            from vllm import LLM
        except ImportError as error:
            raise ValueError(
                f"generation.engine = 'vllm' but vLLM cannot be imported ({error}); "
                "install it (make setup-vllm) or set generation.engine = 'transformers'"
            ) from None
        on_gpu = torch.cuda.is_available()
        self._llm = LLM(
            model=str(checkpoint),
            dtype=model_config.dtype,
            max_model_len=num_positions,
            max_num_seqs=config.max_sequences,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enable_prefix_caching=True,
            block_size=None if on_gpu else CPU_BLOCK_TOKENS,
            # a prompt that is cut makes vLLM turn back the generator of a seed, which a CPU generator cannot do
            enable_chunked_prefill=on_gpu,
            # compiling takes minutes on the CPU and for a tiny model more than its decoding
            enforce_eager=model_config.source == "tiny" or not on_gpu,
            logprobs_mode="processed_logprobs",  # under the distribution sampled from
            disable_log_stats=True,
            trust_remote_code=False,
            generation_config="vllm",  # sampling is as the recipe says, whatever the checkpoint's defaults are
            # takes the launcher's ranks as they are and the device of LOCAL_RANK: no tensor parallelism
            distributed_executor_backend="external_launcher" if world_size() > 1 else None,
            enable_sleep_mode=can_sleep and on_gpu,  # takes an allocator that the CPU build does not have
        )
        self._asleep = False
        self._engine = self._llm.llm_engine
        self._eos_ids = list(eos_ids)
        self._requests: dict[str, _Request] = {}
        self._running: dict[str, str] = {}  # engine request id -> request id

    def add(
        self,
        request_id: str,
        ids: Sequence[int],
        *,
        sampling: Sampling,
        seed: int,
        stop: str | None,
        max_new_tokens: int,
    ) -> None:
        """Queue a request, see `Generator.add`."""
        assert request_id not in self._requests, f"request id {request_id} is taken"
        self._requests[request_id] = _Request(list(ids), sampling, seed)
        self._submit(request_id, stop, max_new_tokens)

    def extend(self, request_id: str, ids: Sequence[int], *, stop: str | None, max_new_tokens: int) -> None:
        """Append feedback ids and go on, see `Generator.extend`."""
        request = self._requests[request_id]
        request.ids += ids
        request.turn += 1
        self._submit(request_id, stop, max_new_tokens)

    def release(self, request_id: str) -> None:
        """Forget a finished request."""
        del self._requests[request_id]

    @property
    def num_running(self) -> int:
        """Requests queued or decoding."""
        return len(self._running)

    def step(self) -> list[Piece]:
        """One engine step; the pieces that ended."""
        pieces = []
        for output in self._engine.step():
            if not output.finished:
                continue
            request_id = self._running.pop(output.request_id)
            completion = output.outputs[0]
            ids = tuple(completion.token_ids)
            logprobs = tuple(
                entry[token].logprob for entry, token in zip(completion.logprobs, ids, strict=True)
            )
            self._requests[request_id].ids += ids
            pieces.append(Piece(request_id, ids, logprobs, _reason(completion)))
        return pieces

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of every token given those before it (0.0 for the first), at temperature 1."""
        from vllm import SamplingParams

        assert not self._running, "scoring steps the engine: pieces of running requests would be lost"
        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0)
        prompts = [{"prompt_token_ids": list(ids)} for ids in sequences]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [
            [0.0]
            + [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
            for output, ids in zip(outputs, sequences, strict=True)
        ]

    def sleep(self) -> None:
        """Drop weights and cache until `load_weights`; the CPU build keeps them, and says so in a warning."""
        assert not self._running, "an engine with running requests cannot sleep"
        self._llm.sleep(level=2)  # keeps no copy: what comes next are other weights
        self._asleep = True

    def load_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Take over parameters by checkpoint name, in memory; cached prefixes of the old weights are dropped.

        Wakes an engine that sleeps: first room for the weights, and for the cache once they are there, so that what
        the trainer gathers to hand them over finds room too.
        """
        assert not self._running, "weights must not change under running requests"
        if self._asleep:
            _free_trainers_cache()
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": _copies(weights)})
        self._llm.collective_rpc(_refresh_tied_head)
        if self._asleep:
            _free_trainers_cache()
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        self._llm.reset_prefix_cache()

    def differing(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> list[str]:
        """Names, as vLLM has them (q, k and v are one), of tensors that `load_weights(weights)` changes.

        It loads them: the engine holds these weights afterwards. A copy that a kernel packed for itself counts too.
        """
        before: dict[str, str] = self._llm.collective_rpc(_fingerprints)[0]
        self.load_weights(weights)
        after: dict[str, str] = self._llm.collective_rpc(_fingerprints)[0]
        return [name for name, digest in after.items() if before.get(name) != digest]

    def _submit(self, request_id: str, stop: str | None, max_new_tokens: int) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        assert not self._asleep, "an engine that sleeps steps no request: load_weights wakes it"
        request = self._requests[request_id]
        engine_id = f"{request_id}#{request.turn}"
        params = SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            seed=(request.seed + 0x9E3779B9 * request.turn) % 2**31,
            max_tokens=max_new_tokens,
            stop=[stop] if stop else None,
            stop_token_ids=self._eos_ids,
            include_stop_str_in_output=True,
            skip_special_tokens=False,  # a stop string may be one
            spaces_between_special_tokens=False,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(engine_id, {"prompt_token_ids": request.ids}, params)
        self._running[engine_id] = request_id


def _reason(completion: Any) -> Any:
    """vLLM's finish reason in our terms: `stop` with a string is a stop string, with a token id the end of turn."""
    if completion.finish_reason == "length":
        return "length"
    assert completion.finish_reason == "stop", f"vLLM ended a request with '{completion.finish_reason}'"
    return "stop" if isinstance(completion.stop_reason, str) else "eos"


def _free_trainers_cache() -> None:
    """Give back what torch's allocator keeps for its next tensors: vLLM takes its memory from the driver."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _require_positions(checkpoint: Path, wanted: int) -> None:
    positions = json.loads((checkpoint / "config.json").read_text()).get("max_position_embeddings", wanted)
    if positions < wanted:
        raise ValueError(
            f"generation.max_prompt_tokens + max_response_tokens + 1 = {wanted}, but the model has {positions} "
            f"positions (max_position_embeddings in its config.json); lower them by {wanted - positions}"
        )


def _copies(weights: "Iterable[tuple[str, torch.Tensor]]") -> "Iterator[tuple[str, torch.Tensor]]":
    """vLLM keeps what it is given until a layer is whole (q, k, v); a gathered ZeRO-3 tensor is gone by then."""
    for name, tensor in weights:
        yield name, tensor.detach().clone()


def _refresh_tied_head(worker: Any) -> None:
    """Pack the CPU build's output head again: reloading refreshes the embedding it is tied to, not the packed copy."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(worker.model_runner.get_model().lm_head, remove_weight=False)


def _fingerprints(worker: Any) -> dict[str, str]:
    """sha256 of every parameter, and of what each packed copy makes of a fixed input: copies cannot be read.

    The CPU build empties most parameters once they are packed; a copy beside its parameter is named as one.
    """
    import torch

    model = worker.model_runner.get_model()
    found = {name: _digest(parameter) for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        packed = getattr(module, "cpu_linear", None)
        if packed is not None:
            width = getattr(module, "input_size_per_partition", None) or module.embedding_dim
            ramp = torch.linspace(-1.0, 1.0, width, dtype=module.weight.dtype)[None]  # (1, in)
            label = " (packed copy)" if module.weight.numel() else ""
            found[f"{name}.weight{label}"] = _digest(packed(ramp, module.weight, None))
    return found


def _digest(tensor: "torch.Tensor") -> str:
    import torch

    values = tensor.detach().contiguous().view(torch.uint8).cpu().numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()
