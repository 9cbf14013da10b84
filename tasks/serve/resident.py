"""A checkpoint that stays loaded. One loop samples the requests of many clients side by side.

The loop is that of evaluation (`interleave.py`), in a thread of its own. That thread reports to listeners how their
responses grow. A sample depends on its prompt and seed, not on what runs beside it.
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

PATIENCE_S = 0.01  # how long the loop waits for code before it looks for new requests
SHOW_S = 0.03  # between two reports of growth
IDLE_S = 0.5
ATTEMPTS = 3  # of a sample for which the sandbox fails, as in evaluation
Listener = Callable[[Grown | Exception], None]


@dataclass(slots=True)
class _Active:
    """A request under way."""

    request: RolloutRequest
    listen: Listener
    follows: bool  # gets reports while the response grows
    num_ids: int = 0
    num_calls: int = 0
    attempts: int = 1


class Resident:
    """An open checkpoint. Every public method may be called from any thread."""

    def __init__(
        self,
        generator: Generator,
        tool: "Tool | None",
        tokenizer: "PreTrainedTokenizerBase",
        policy: RolloutPolicy,
        prompts: Prompts,
        max_positions: int,
    ) -> None:
        """`max_positions` is the model's limit for the tokens of prompt and response together."""
        self.policy = policy
        self.prompts = prompts
        self.max_positions = max_positions
        self.tool = tool
        self.failed: Exception | None = None
        self._tokenizer = tokenizer
        self._interleaver = Interleaver(generator, tool, tokenizer, policy, PATIENCE_S)
        self._commands: SimpleQueue[_Active | str | None] = SimpleQueue()
        self._active: dict[str, _Active] = {}
        self._thread = threading.Thread(target=self._work, name="resident", daemon=True)
        self._thread.start()

    def ask(self, request: RolloutRequest, listen: Listener, follows: bool) -> None:
        """Sample. `listen` gets the growth (while the response grows only if it `follows`), or an error."""
        self._commands.put(_Active(request, listen, follows))
        if self.failed is not None:  # checked last: the thread may have ended without reading the command
            listen(self.failed)

    def drop(self, request_id: str) -> None:
        """Stop a request that nobody listens to any more."""
        self._commands.put(request_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, decoded as in trajectories."""
        return ids_text(self._tokenizer, ids)

    def close(self) -> None:
        """End the loop. Listeners of requests under way get an error."""
        self._commands.put(None)
        self._thread.join()

    def _work(self) -> None:
        error: Exception = ConnectionAbortedError("the server is ending")
        try:
            self._loop()
        except Exception as raised:  # noqa: BLE001  whatever it is, the listeners must get it
            error = raised
        self.failed = error
        while not self._commands.empty():
            if isinstance(command := self._commands.get(), _Active):
                command.listen(error)
        for active in self._active.values():
            active.listen(error)

    def _loop(self) -> None:
        shown = 0.0
        while self._take_commands():
            for trajectory in self._interleaver.step():
                self._end(trajectory)
            if time.monotonic() - shown > SHOW_S:
                self._show()
                shown = time.monotonic()

    def _take_commands(self) -> bool:
        """Take the commands since the last step, and wait for one if nothing is under way. Returns False to end."""
        waits = not self._active
        while True:
            try:
                command = self._commands.get(timeout=IDLE_S) if waits else self._commands.get_nowait()
            except Empty:
                return True
            waits = False
            if command is None:
                return False
            if isinstance(command, str):
                if self._active.pop(command, None) is not None:
                    self._interleaver.drop(command)
            else:
                self._active[command.request.id] = command
                self._interleaver.add(command.request)

    def _show(self) -> None:
        """Report new growth to the listeners that follow."""
        for request_id, active in self._active.items():
            if not active.follows:
                continue
            ids, calls = self._interleaver.so_far(request_id)
            running = self._interleaver.running_code(request_id)
            if len(ids) > active.num_ids or running is not None:
                new_ids, new_calls = tuple(ids[active.num_ids :]), tuple(calls[active.num_calls :])
                active.num_ids, active.num_calls = len(ids), len(calls)
                active.listen(Grown(new_ids, new_calls, running))

    def _end(self, trajectory: Trajectory) -> None:
        active = self._active.get(f"{trajectory.problem_id}/{trajectory.sample}")
        if active is None:
            return
        if trajectory.finish == "sandbox_failure" and active.attempts < ATTEMPTS and not active.num_ids:
            active.attempts += 1
            self._interleaver.add(active.request)
            return
        del self._active[active.request.id]
        ids = trajectory.response_ids[:-1] if trajectory.finish == "eos" else trajectory.response_ids
        new_ids, new_calls = tuple(ids[active.num_ids :]), trajectory.calls[active.num_calls :]
        active.listen(Grown(new_ids, new_calls, trajectory=trajectory))


@contextmanager
def open_resident(request: ServeRequest) -> Iterator[Resident]:
    """Load the checkpoint and open its tool. Raises ValueError, with the remedy, if it cannot run here."""
    import torch
    from transformers import AutoConfig

    if not torch.cuda.is_available():
        tell_deepspeed_of_cpu()  # Transformers imports DeepSpeed
    config = request.config
    tokenizer = load_tokenizer(request.checkpoint)
    sampling = Sampling(config.evaluate.temperature, config.evaluate.top_p)
    policy = RolloutPolicy.of(config.traces, config.sandbox, config.generation, sampling)
    shape = AutoConfig.from_pretrained(request.checkpoint, trust_remote_code=False).get_text_config()
    most = config.generation.max_prompt_tokens + config.generation.max_response_tokens
    with ExitStack() as stack:
        tool = None
        if policy.max_calls and policy.dialect.runs_code:
            tool = stack.enter_context(open_tool(config.sandbox))
        engine = open_generator(
            config.generation,
            config.model,
            request.checkpoint,
            tokenizer,
            scratch=request.scratch,
            followed=True,
        )
        generator = stack.enter_context(engine)
        policy, prompts = replace(policy, schedule_steps=None), Prompts(tokenizer, config)
        max_positions = getattr(shape, "max_position_embeddings", most)
        resident = Resident(generator, tool, tokenizer, policy, prompts, max_positions)
        stack.callback(resident.close)
        yield resident
