"""A pool of servers as a `Generator`: a thread of its own sends requests over HTTP, `step` returns the pieces.

Only the first rank of a trainer asks; the others have a `PoolFollower`, which takes part in what all ranks do together.
"""

import asyncio
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, TypeVar

import torch

from tasks.shared.generation.asker import Asker
from tasks.shared.generation.follower import Follower
from tasks.shared.generation.pool.client import Completion
from tasks.shared.generation.pool.members import Ask, Member, Pool
from tasks.shared.generation.pool.nccl import NcclTransfer
from tasks.shared.generation.pool.weights import FileTransfer
from tasks.shared.generation.protocol import Piece
from tasks.shared.generation.resubmission import Resubmits
from tasks.shared.generation.vllm_options import reason_of, sampling_options
from tasks.shared.learning.distributed import from_first_rank

Digests = dict[str, dict[str, str]]  # by server and tensor
Result = TypeVar("Result")


class PoolAsker(Resubmits, Asker):
    """What one rollout loop asks of the pool (`Decodes`), beside other loops on the same servers."""

    def __init__(
        self, put: Callable[[Ask], None], forget: Callable[[Ask], None], eos_ids: Sequence[int]
    ) -> None:
        """`put` gives an ask to the pool, `forget` withdraws one."""
        Resubmits.__init__(self)
        Asker.__init__(self)
        self._put = put
        self._forget = forget
        self._eos_ids = list(eos_ids)
        self._asks: dict[str, Ask] = {}  # the last one of each request

    def release(self, request_id: str) -> None:
        """Forget a finished request."""
        super().release(request_id)
        del self._asks[request_id]

    def abort(self, request_id: str) -> None:
        """Forget a request, see `Aborts`."""
        if request_id in self._running:
            self._running.remove(request_id)
            self._forget(self._asks[request_id])
        self.release(request_id)

    def step(self) -> list[Piece]:
        """The pieces that ended, see `Asker.step`."""
        pieces = super().step()
        for piece in pieces:
            self._requests[piece.request_id].ids += piece.ids
        return pieces

    def _submit(self, request_id: str, stop: str | None, max_new_tokens: int) -> None:
        request = self._requests[request_id]
        options = sampling_options(
            request.sampling, request.seed, request.turn, stop, max_new_tokens, self._eos_ids
        )
        last = self._asks.get(request_id)
        ask = Ask(request_id, list(request.ids), options, self.arrived, last.member if last else None)
        self._asks[request_id] = ask
        self._running.add(request_id)
        self._put(ask)


class PoolGenerator(PoolAsker):
    """A `Generator` that `NamesDifferences`, `HasCopies` and `AsksBeside`. Close it."""

    def __init__(
        self,
        members: Sequence[Member],
        token: str,
        *,
        slots: int,
        eos_ids: Sequence[int],
        paths: Sequence[str],
        directory: Path | None = None,
        nccl_address: str = "",
    ) -> None:
        """`paths`: the checkpoint's safetensors. Later weights are sent by NCCL from this host's `nccl_address`, or
        as files in `directory`, which is this host's memory if None.
        """
        self._run = secrets.token_hex(4)  # distinguishes this pool's versions from those of another run
        self.version = 0  # of the weights in use; 0: the checkpoint's
        super().__init__(self._hand_over, self._give_up, eos_ids)
        self._askers: list[PoolAsker] = [self]
        self._num_scored = 0
        self._scored_by = ""
        self._failed: Exception | None = None
        self._pool = Pool(
            members,
            token,
            version=self._name(0),
            paths=paths,
            slots=slots,
            take=self._take,
            fail=self._fail,
        )
        self._loop = asyncio.new_event_loop()
        self._waiting: set[Future[Any]] = set()  # calls into the loop whose callers wait
        self._thread = threading.Thread(target=self._loop.run_forever, name="pool", daemon=True)
        self._thread.start()
        self._transfer: NcclTransfer | FileTransfer
        if nccl_address:
            self._transfer = NcclTransfer(self._pool, self._call, nccl_address)
        else:
            self._transfer = FileTransfer(self._pool, self._call, directory)
        self._call(self._pool.start())

    def beside(self) -> PoolAsker:
        """A second loop's way to these servers, in a thread of its own."""
        self._askers.append(PoolAsker(self._hand_over, self._give_up, self._eos_ids))
        return self._askers[-1]

    def wait(self) -> None:
        """Wait until every server has started."""
        self._call(self._pool.all_started())

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of every token given those before it, by one server, each time the next one."""
        scores = self._call(self._score(sequences, self._num_scored))
        self._num_scored += 1
        return from_first_rank(scores)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Give every server these weights, in memory; running requests wait meanwhile and continue with them."""
        self.wait()
        self.version += 1
        self._transfer.push(weights, self._name(self.version))

    def disagreeing(self) -> list[str]:
        """Tensors, by server, that differ from those of the server that scored last."""
        held = self._call(self._pool.digests())
        scored = held.get(self._scored_by) or next(iter(held.values()))
        return from_first_rank(_differing(held, dict.fromkeys(held, scored)))

    def differing(self, weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """Tensors, by server, that `load_weights(weights)` changes. The servers hold these weights afterwards."""
        before = self._call(self._pool.digests())
        self.load_weights(weights)
        return from_first_rank(_differing(self._call(self._pool.digests()), before))

    def close(self) -> None:
        """Close the connections. Whoever started the servers ends them."""
        asyncio.run_coroutine_threadsafe(self._pool.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._transfer.close()

    def _give_up(self, ask: Ask) -> None:
        self._loop.call_soon_threadsafe(self._pool.forget, ask)

    def _hand_over(self, ask: Ask) -> None:
        self._loop.call_soon_threadsafe(self._pool.put, ask)

    def _take(self, ask: Ask, completion: Completion) -> None:
        """Give a piece to the loop that asked for it; called in the pool's thread."""
        versions = tuple((self._number(name), count) for name, count in completion.versions)
        reason = reason_of(completion.finish_reason, completion.stop_reason)
        ids, logprobs = tuple(completion.ids), tuple(completion.logprobs)
        ask.arrived.put(Piece(ask.request_id, ids, logprobs, reason, versions))

    def _fail(self, error: Exception) -> None:
        """Let every loop and caller raise `error`; called in the pool's thread."""
        if self._failed is None:
            self._failed = error
            for asker in self._askers:
                asker.arrived.put(error)
            for waiting in list(self._waiting):
                waiting.cancel()

    def _name(self, version: int) -> str:
        return f"{self._run}:{version}"

    def _number(self, name: str) -> int:
        """The number of one of this pool's versions. ValueError if another run has changed a server's weights."""
        run, _, number = name.partition(":")
        if run != self._run:
            raise ValueError(
                f"a server of the pool sampled with weights of another run (version '{name}'); let it serve one "
                "stage at a time"
            )
        return int(number)

    async def _score(self, sequences: Sequence[Sequence[int]], number: int) -> list[list[float]]:
        member = await self._pool.first_ready(number)
        self._scored_by = member.name
        return list(await asyncio.gather(*(member.client.score(list(ids)) for ids in sequences)))

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` in the pool's thread and wait for it. Raises what keeps the pool from continuing."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._waiting.add(future)
        if self._failed is not None:
            future.cancel()
        try:
            return future.result()
        except CancelledError:
            assert self._failed is not None
            raise self._failed from None
        finally:
            self._waiting.discard(future)


def _differing(held: Digests, expected: Digests) -> list[str]:
    """Server and name of each tensor whose digest is not the expected one."""
    return [
        f"{server}, {name}"
        for server, digests in held.items()
        for name in expected.get(server, {}) | digests
        if digests.get(name) != expected.get(server, {}).get(name)
    ]


class PoolFollower(Follower):
    """The pool in a rank that is never asked to sample."""

    def disagreeing(self) -> list[str]:
        """The first rank's names."""
        return from_first_rank([""])
