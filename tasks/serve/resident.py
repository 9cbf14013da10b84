"""A checkpoint that stays loaded: requests of many askers go through one loop, side by side, code in the sandbox.

The loop is that of evaluation (`interleave.py`), in a thread of its own. Listeners are told what a response has more
than before, in that thread; what a sample says depends on its prompt and seed, not on what runs beside it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from tasks.serve.conversation import Prompts
from tasks.serve.parts import Grown
from tasks.serve.request import ServeRequest
from tasks.shared.contract.environment import tell_deepspeed_of_cpu
from tasks.shared.generation.engines import open_generator
from tasks.shared.generation.interleave import Interleaver, RolloutPolicy, RolloutRequest
from tasks.shared.generation.protocol import Generator, Sampling
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.tools.interpreter import open_tool
from tasks.shared.traces.text_ids import ids_text
from tasks.shared.traces.trajectory import Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.shared.tools.protocol import Tool

PATIENCE_S = 0.01  # that the loop waits for code before it looks for new requests
SHOW_S = 0.03  # between two looks at what grows
IDLE_S = 0.5
Listener = Callable[[Grown | Exception], None]


@dataclass(slots=True)
class _Asked:
    """A request under way."""

    request: RolloutRequest
    listen: Listener
    follows: bool  # wants to hear of it while it grows
    num_ids: int = 0
    num_calls: int = 0
    attempts: int = 1


ATTEMPTS = 3  # of a sample under which the sandbox fails, as in evaluation


class Resident:
    """An open checkpoint. Everything public may be called from any thread."""

    def __init__(
        self,
        generator: Generator,
        interpreter: "Tool | None",
        tokenizer: "PreTrainedTokenizerBase",
        policy: RolloutPolicy,
        prompts: Prompts,
        max_positions: int,
    ) -> None:
        """`max_positions`: tokens of prompt and response together that the model knows."""
        self.policy = policy
        self.prompts = prompts
        self.max_positions = max_positions
        self.interpreter = interpreter
        self.failed: Exception | None = None
        self._tokenizer = tokenizer
        self._interleaver = Interleaver(generator, interpreter, tokenizer, policy, PATIENCE_S)
        self._orders: SimpleQueue[_Asked | str | None] = SimpleQueue()
        self._asked: dict[str, _Asked] = {}
        self._thread = threading.Thread(target=self._work, name="resident", daemon=True)
        self._thread.start()

    def ask(self, request: RolloutRequest, listen: Listener, follows: bool) -> None:
        """Sample; `listen` hears of it as it grows (if it `follows`) and once it has ended, or an error."""
        self._orders.put(_Asked(request, listen, follows))
        if self.failed is not None:  # looked at last: nobody is left to read the order
            raise self.failed

    def drop(self, request_id: str) -> None:
        """Nobody listens any more."""
        self._orders.put(request_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, as trajectories have it."""
        return ids_text(self._tokenizer, ids)

    def close(self) -> None:
        """End the loop; what is under way hears that it was stopped."""
        self._orders.put(None)
        self._thread.join()

    def _work(self) -> None:
        error: Exception = ConnectionAbortedError("the server is ending")
        try:
            self._loop()
        except Exception as raised:  # noqa: BLE001  whatever it is, those who wait must hear of it
            error = raised
        self.failed = error
        while not self._orders.empty():
            if isinstance(order := self._orders.get(), _Asked):
                order.listen(error)
        for asked in self._asked.values():
            asked.listen(error)

    def _loop(self) -> None:
        shown = 0.0
        while self._take_orders():
            for trajectory in self._interleaver.step():
                self._end(trajectory)
            if time.monotonic() - shown > SHOW_S:
                self._show()
                shown = time.monotonic()

    def _take_orders(self) -> bool:
        """Take what was asked since the last step, waiting where nothing is under way; False at the end."""
        waits = not self._asked
        while True:
            try:
                order = self._orders.get(timeout=IDLE_S) if waits else self._orders.get_nowait()
            except Empty:
                return True
            waits = False
            if order is None:
                return False
            if isinstance(order, str):
                if self._asked.pop(order, None) is not None:
                    self._interleaver.drop(order)
            else:
                self._asked[order.request.id] = order
                self._interleaver.add(order.request)

    def _show(self) -> None:
        """Tell those who follow what is new."""
        for request_id, asked in self._asked.items():
            if not asked.follows:
                continue
            ids, calls = self._interleaver.so_far(request_id)
            running = self._interleaver.running_code(request_id)
            if len(ids) > asked.num_ids or running is not None:
                new_ids, new_calls = tuple(ids[asked.num_ids :]), tuple(calls[asked.num_calls :])
                asked.num_ids, asked.num_calls = len(ids), len(calls)
                asked.listen(Grown(new_ids, new_calls, running))

    def _end(self, trajectory: Trajectory) -> None:
        asked = self._asked.get(f"{trajectory.problem_id}/{trajectory.sample}")
        if asked is None:
            return
        if trajectory.finish == "sandbox_failure" and asked.attempts < ATTEMPTS and not asked.num_ids:
            asked.attempts += 1
            self._interleaver.add(asked.request)
            return
        del self._asked[asked.request.id]
        ids = trajectory.response_ids[:-1] if trajectory.finish == "eos" else trajectory.response_ids
        asked.listen(
            Grown(tuple(ids[asked.num_ids :]), trajectory.calls[asked.num_calls :], trajectory=trajectory)
        )


@contextmanager
def open_resident(request: ServeRequest) -> Iterator[Resident]:
    """The checkpoint, loaded, with its sandbox. ValueError, with the remedy, if it cannot run here."""
    import torch
    from transformers import AutoConfig

    if not torch.cuda.is_available():
        tell_deepspeed_of_cpu()  # Transformers imports it
    config = request.config
    tokenizer = load_tokenizer(request.checkpoint)
    sampling = Sampling(config.evaluate.temperature, config.evaluate.top_p)
    policy = RolloutPolicy.of(config.traces, config.sandbox, config.generation, sampling)
    shape = AutoConfig.from_pretrained(request.checkpoint, trust_remote_code=False).get_text_config()
    most = config.generation.max_prompt_tokens + config.generation.max_response_tokens
    with ExitStack() as stack:
        interpreter = None
        if policy.max_calls and policy.dialect.runs_code:
            interpreter = stack.enter_context(open_tool(config.sandbox))
        generator = stack.enter_context(
            open_generator(
                config.generation,
                config.model,
                request.checkpoint,
                tokenizer,
                scratch=request.scratch,
                followed=True,
            )
        )
        resident = Resident(
            generator,
            interpreter,
            tokenizer,
            replace(policy, delivery="ready"),
            Prompts(tokenizer, config),
            getattr(shape, "max_position_embeddings", most),
        )
        stack.callback(resident.close)
        yield resident
