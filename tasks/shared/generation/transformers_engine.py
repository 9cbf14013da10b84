"""The embedded engine: a batched decode loop over slots on any causal language model of Transformers with attention.

A request keeps its slot, and so its KV cache, while its code runs; the other rows go on, and the interpreter's tokens
are forced in as one chunk when it continues. Requests are admitted into free slots at any step; equal prompts are
computed once. A step depends only on the order of calls, so equal calls give equal bits.
"""

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Unpack

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.shared.generation.protocol import Bounds, Piece, RequestOptions, Sampling
from tasks.shared.generation.requests import FREE, SlotRequest, by_length
from tasks.shared.generation.sampling import draw, uniform_stream
from tasks.shared.generation.slots import (
    ATTENTION,
    SlotCache,
    at_positions,
    register_slot_attention,
)
from tasks.shared.generation.stops import StopFinder
from tasks.shared.generation.weights import differing_names, load_by_name
from tasks.shared.learning.own_forward import (
    SHORT,
    eager_attention,
    has_recurrent_state,
    plain_logprobs,
    require_own_forward,
    sample_sequences,
)
from tasks.shared.traces.turns import stop_ids

# Largest share of a decode step's rows that may be idle, and computed for nothing, before rows are moved.
IDLE_SHARE = 1 / 16
PATIENCE = 4  # decode steps that a chunk waits for others: a pass costs the same for one row as for several


class TransformersGenerator:
    """`Generator` over a Transformers model, which it owns and switches to slot attention."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_sequences: int
    ) -> None:
        config = model.config.get_text_config()
        if has_recurrent_state(model):
            raise ValueError(
                f"model type '{config.model_type}' has {sorted(set(config.layer_types))} layers; the transformers "
                "engine decodes attention alone: set generation.engine = 'vllm'"
            )
        register_slot_attention()
        model.set_attn_implementation(ATTENTION)
        self._model = model.eval()
        self.version = 0  # of the weights, from 0 for the checkpoint's
        self._tokenizer = tokenizer
        self._device, self._dtype = model.device, model.dtype
        self._cache = SlotCache(config, max_sequences, model.dtype, model.device)
        # not every architecture has one
        self._max_positions = getattr(config, "max_position_embeddings", sys.maxsize)
        self._end_ids: frozenset[int] = frozenset()
        self._stops: dict[str, StopFinder] = {}
        self._requests: dict[str, SlotRequest] = {}
        self._slots: list[SlotRequest | None] = [None] * max_sequences
        self._num_decoding = 0
        self._waiting: deque[SlotRequest] = deque()  # new, without a slot
        self._resuming: list[SlotRequest] = []  # with a slot, extended
        self._waited = 0
        require_own_forward(model, "decoding", "set generation.engine = 'vllm'", self._both_ways)
        self._end_ids = stop_ids(tokenizer, config, model.generation_config)

    def add(self, request_id: str, ids: Sequence[int], **options: Unpack[RequestOptions]) -> None:
        """Queue a request. ValueError: an id in use, no ids, or more tokens than the model has positions."""
        if request_id in self._requests:
            raise ValueError(f"request '{request_id}' is alive already; release it or use another id")
        if not ids:
            raise ValueError(f"request '{request_id}': no prompt ids")
        stop, budget = self._stop_finder(options["stop"]), options["max_new_tokens"]
        uniforms = uniform_stream(options["seed"])
        request = SlotRequest(request_id, options["sampling"], uniforms, stop, budget, tuple(ids))
        self._require_positions(request)
        self._requests[request_id] = request
        self._waiting.append(request)

    def extend(self, request_id: str, ids: Sequence[int], **bounds: Unpack[Bounds]) -> None:
        """Force `ids` (may be empty) after the sampled tokens, and continue sampling."""
        request = self._requests[request_id]
        assert request.slot != FREE and not request.decoding and request.ids, (
            "extended without a returned piece"
        )
        request.forced = (request.ids[-1], *ids)  # the last sampled token is not in the KV cache yet
        request.ids, request.logprobs, request.versions = [], [], []
        request.stop, request.budget = self._stop_finder(bounds["stop"]), bounds["max_new_tokens"]
        self._require_positions(request)
        self._resuming.append(request)

    def _require_positions(self, request: SlotRequest) -> None:
        assert request.budget >= 1
        num_ids = request.length + len(request.forced)
        if num_ids + request.budget > self._max_positions:
            raise ValueError(
                f"request '{request.request_id}': {num_ids} given + {request.budget} new tokens are more than the "
                f"model's {self._max_positions} positions; lower generation.max_response_tokens or max_prompt_tokens"
            )

    def release(self, request_id: str) -> None:
        """Forget a request and free its slot."""
        request = self._requests.pop(request_id)
        assert not request.decoding, "released while it decodes"
        if request.slot != FREE:
            self._slots[request.slot] = None

    def sampled(self, request_id: str) -> Sequence[int]:
        """Ids of the unfinished piece, see `Follows`."""
        request = self._requests[request_id]
        return request.ids if request.decoding else ()

    def abort(self, request_id: str) -> None:
        """Forget a request, see `Aborts`."""
        request = self._requests[request_id]
        if request.decoding:
            self._park(request, "length")
        self._waiting = deque(waiting for waiting in self._waiting if waiting is not request)
        self._resuming = [resuming for resuming in self._resuming if resuming is not request]
        self.release(request_id)

    @property
    def num_running(self) -> int:
        """Requests queued or decoding (not those waiting to be extended)."""
        return self._num_decoding + len(self._waiting) + len(self._resuming)

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """Compute due chunks and one token for every decoding request; return the pieces that ended, in slot order."""
        pieces = self._decode() if self._num_decoding else []
        if self._chunk_is_due():
            pieces += self._admit()
        return pieces

    def load_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Take over the trainer's parameters by name; live requests keep the KV cache of the older weights."""
        for request in self._requests.values():
            request.close_version(self.version)
        load_by_name(self._model, weights)
        self.version += 1

    def differing(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> list[str]:
        """Names of tensors that differ from those after `load_weights(weights)`."""
        return differing_names(self._model, weights)

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of every token given those before it (0.0 for the first), by this engine's own weights."""
        scored = []
        for ids in sequences:
            tokens = torch.tensor([ids], device=self._device)
            positions = torch.arange(len(ids), device=self._device)[None]
            # A mask of tokens to see, all of them, keeps Transformers from looking for packed sequences.
            with at_positions(positions, len(ids), self._dtype):
                logits = self._model(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    position_ids=positions,
                    use_cache=False,
                ).logits
            logprobs = torch.log_softmax(logits[0, :-1].float(), dim=-1)
            scored.append([0.0, *logprobs.gather(1, tokens[0, 1:, None])[:, 0].tolist()])
        return scored

    def _stop_finder(self, stop: str | None) -> StopFinder | None:
        if stop is None:
            return None
        if stop not in self._stops:
            self._stops[stop] = StopFinder(self._tokenizer, stop)
        return self._stops[stop]

    def _both_ways(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs of tokens that were decoded, forced and scored here, and the same by the model's own pass."""
        first, second, feedback = sample_sequences(self._model.config.get_text_config().vocab_size)
        whole = {"0": list(first), "1": list(second)} if len(self._slots) > 1 else {"0": list(first)}
        found: list[float] = []
        places: list[tuple[str, int]] = []
        for name, ids in whole.items():
            self.add(name, ids, sampling=Sampling(), seed=int(name), stop=None, max_new_tokens=SHORT)
        for turn in range(2):
            while self.num_running:
                for piece in self.step():
                    name = piece.request_id
                    places += [(name, len(whole[name]) + place) for place in range(len(piece.ids))]
                    found += piece.logprobs
                    whole[name] += piece.ids
            for name, ids in whole.items():
                if turn == 0:
                    self.extend(name, feedback, stop=None, max_new_tokens=SHORT)
                    ids += feedback
                else:
                    self.release(name)
        scored = self.score(list(whole.values()))
        with eager_attention(self._model):
            own = {name: plain_logprobs(self._model, ids) for name, ids in whole.items()}
        expected = torch.stack([own[name][place] for name, place in places])
        return torch.tensor(found + [x for row in scored for x in row]), torch.cat([expected, *own.values()])

    def _decode(self) -> list[Piece]:
        """One token for every decoding row. Idle rows inside the slice are computed too and ignored."""
        rows = self._slots[: self._compact()]
        # an idle row is written too, at the position of its next token, which its extension overwrites
        lengths = [0 if request is None else request.length for request in rows]
        last = [0 if request is None or not request.decoding else request.ids[-1] for request in rows]
        read = 1 + max(request.length for request in rows if request is not None and request.decoding)
        self._cache.reserve(1 + max(lengths))
        tokens, positions = torch.tensor([last, lengths], device=self._device)[:, :, None]
        self._cache.begin_decode(positions[:, 0], read)
        with at_positions(positions, read, self._dtype):
            logits = self._model(
                input_ids=tokens, position_ids=positions, past_key_values=self._cache, use_cache=True
            ).logits
        for request in rows:
            if request is not None and request.decoding:
                request.length += 1
        return self._sample(rows, logits[:, -1])

    def _sample(self, rows: Sequence[SlotRequest | None], logits: torch.Tensor) -> list[Piece]:
        """Draw a token for each decoding row of logits (n, V), and end the pieces that are complete."""
        idle = Sampling()
        live = [request if request is not None and request.decoding else None for request in rows]
        uniforms = [next(request.uniforms) if request is not None else 0.0 for request in live]
        samplings = [request.sampling if request is not None else idle for request in live]
        drawn, drawn_logprobs = draw(logits, uniforms, samplings)
        pieces = []
        for request, token, logprob in zip(live, drawn.tolist(), drawn_logprobs.tolist(), strict=True):
            if request is None:
                continue
            request.ids.append(token)
            request.logprobs.append(logprob)
            request.budget -= 1
            if token in self._end_ids:
                pieces.append(self._park(request, "eos"))
            elif request.stop is not None and request.stop.found(request.ids):
                pieces.append(self._park(request, "stop"))
            elif request.budget == 0:
                pieces.append(self._park(request, "length"))
        return pieces

    def _park(self, request: SlotRequest, reason: str) -> Piece:
        """Stop decoding a request; its slot and KV cache stay until it is extended or released."""
        request.decoding = False
        self._num_decoding -= 1
        request.close_version(self.version)
        piece = tuple(request.ids), tuple(request.logprobs), reason, tuple(request.versions)
        return Piece(request.request_id, *piece)  # type: ignore[arg-type]

    def _compact(self) -> int:
        """Rows to compute: up to the last decoding slot, after moving rows down if too many would be idle."""
        last = max(
            slot for slot, request in enumerate(self._slots) if request is not None and request.decoding
        )
        if self._num_decoding > (last + 1) * (1 - IDLE_SHARE):
            return last + 1
        decoding = [request is not None and request.decoding for request in self._slots]
        count = self._num_decoding
        idle = [slot for slot in range(count) if not decoding[slot]]
        beyond = [slot for slot in range(count, last + 1) if decoding[slot]]
        self._exchange(idle, beyond)
        return count

    def _exchange(self, first: list[int], second: list[int]) -> None:
        """Exchange the contents of the slots `first` and `second`, pair by pair."""
        length = max(request.length for slot in first + second if (request := self._slots[slot]) is not None)
        places = torch.tensor([first, second], device=self._device)
        self._cache.swap_rows(places[0], places[1], length)
        for low, high in zip(first, second, strict=True):
            self._slots[low], self._slots[high] = self._slots[high], self._slots[low]
            for slot in (low, high):
                if (request := self._slots[slot]) is not None:
                    request.slot = slot

    def _chunk_is_due(self) -> bool:
        """Whether waiting chunks are computed now, or wait a little for others to share the pass."""
        free = sum(request is None for request in self._slots) if self._waiting else 0
        num_ready = len(self._resuming) + min(free, len(self._waiting))
        if num_ready == 0:
            return False
        self._waited += 1
        if self._num_decoding and num_ready * 8 < self._num_decoding and self._waited < PATIENCE:
            return False
        self._waited = 0
        return True

    def _admit(self) -> list[Piece]:
        """Compute the chunks of extended requests, then the prompts of new ones while slots are free."""
        pieces = []
        for group in by_length(self._resuming):
            pieces += self._sample(group, self._forward_chunks(group))
        self._resuming = []
        arrived = []
        for slot, held in enumerate(self._slots):
            if held is None and self._waiting:
                request = self._waiting.popleft()
                request.slot = slot
                self._slots[slot] = request
                arrived.append(request)
        first_of = {request.forced: request for request in reversed(arrived)}
        for group in by_length(sorted(first_of.values(), key=lambda request: request.slot)):
            logits = self._forward_chunks(group)
            row_of = {request.request_id: row for row, request in enumerate(group)}
            members = [request for request in arrived if first_of[request.forced].request_id in row_of]
            rows = [row_of[first_of[request.forced].request_id] for request in members]
            for request in members:
                source = first_of[request.forced]
                if request is not source:  # an equal prompt: its KV cache is copied
                    self._cache.copy_row(source.slot, request.slot, source.length)
                    self._start(request, source.length)
            pieces += self._sample(members, logits[rows])
        return pieces

    def _start(self, request: SlotRequest, length: int) -> None:
        request.length = length
        request.decoding = True
        self._num_decoding += 1

    def _forward_chunks(self, group: Sequence[SlotRequest]) -> torch.Tensor:
        """Append each request's forced ids, right-padded to the longest, to its row; next-token logits (R, V)."""
        width = max(len(request.forced) for request in group)
        ids = torch.zeros((len(group), width), dtype=torch.long)
        for row, request in enumerate(group):
            ids[row, : len(request.forced)] = torch.tensor(request.forced)
        starts = torch.tensor([request.length for request in group], device=self._device)
        longest = max(request.length for request in group) + width
        self._cache.reserve(longest)  # padding is written too: beyond the row's length, where nothing reads
        positions = starts[:, None] + torch.arange(width, device=self._device)
        slots = torch.tensor([request.slot for request in group], device=self._device)
        fresh = all(request.length == 0 for request in group)
        self._cache.begin_chunk(slots, positions, 0 if fresh else longest)
        last = torch.tensor([len(request.forced) - 1 for request in group], device=self._device)
        kept, column = last.unique(return_inverse=True)
        with at_positions(positions, longest, self._dtype):
            logits = self._model(
                input_ids=ids.to(self._device),
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=kept,
            ).logits
        for request in group:
            self._start(request, request.length + len(request.forced))
        return logits[torch.arange(len(group), device=self._device), column]
