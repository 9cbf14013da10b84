"""`tirflow ask`: a question or a conversation in the terminal, with code that runs while the answer is sampled.

Text streams as it is sampled, and programs line by line in colour. A program's output follows when it has run. The
answer is highlighted. With several samples, their vote is shown. Sample i of a question has the seed `seed + i`.
"""

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from queue import SimpleQueue

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.serve.conversation import Message
from tasks.serve.parts import Grown, Parts, answer_of
from tasks.serve.printing import Printer
from tasks.serve.request import ServeRequest
from tasks.serve.resident import Resident, open_resident
from tasks.shared.contract.environment import quieten_engines
from tasks.shared.generation.interleave import RolloutRequest
from tasks.shared.grading import pooled
from tasks.shared.traces.trajectory import FinishReason, Trajectory


def ask(request: ServeRequest, console: Console | None = None) -> int:
    """Answer the question of `request`, or questions from the terminal one by one. Returns the exit code."""
    quieten_engines()
    console = console or Console()
    with ExitStack() as stack:
        with console.status(f"loading {request.name}"):
            resident = stack.enter_context(open_resident(request))
        asker = Asker(resident, console, request)
        if request.question:
            asker.answer(request.question)
        else:
            asker.converse()
    return 0


class Asker:
    """Asks one resident checkpoint and shows its answers."""

    def __init__(self, resident: Resident, console: Console, request: ServeRequest) -> None:
        self._resident = resident
        self._console = console
        self._samples = request.samples
        self._seed = secrets.randbits(31) if request.seed is None else request.seed
        self._history: list[Message] = []

    def converse(self) -> None:
        """Answer questions until an empty line or the end of input. An interrupt ends the current answer only."""
        self._console.print("An empty line ends the conversation.", style="dim")
        while question := self._next_question():
            try:
                self.answer(question)
            except ValueError as error:
                self._console.print(f"error: {error}", style="red", markup=False)
            except KeyboardInterrupt:
                self._console.print("\nstopped", style="dim")

    def answer(self, question: str) -> None:
        """Ask the question and show the answer. Raises ValueError if the prompt is too long."""
        prompts = self._resident.prompts
        history = self._history if prompts.converses and self._samples == 1 else []
        messages = [*history, Message("user", question)]
        prompt_ids = prompts.of(messages)
        self._console.print(f"seed {self._seed}", style="dim")
        if self._samples > 1:
            self._vote(prompt_ids)
        else:
            trajectory = self._follow(prompt_ids)
            self._history = [*messages, Message("assistant", trajectory.text)]
        self._seed += self._samples

    def _next_question(self) -> str:
        try:
            return self._console.input("[bold]> [/]").strip()
        except (EOFError, KeyboardInterrupt):
            return ""

    def _follow(self, prompt_ids: tuple[int, ...]) -> Trajectory:
        """Show one sample while it grows. Returns its trajectory."""
        printer = Printer(self._console, self._resident.policy.dialect)
        parts = Parts(self._resident.decode)
        for _, grown in self._stream(prompt_ids, follows=True):
            for part in parts.take(grown):
                printer.show(part)
            if grown.trajectory is not None:
                printer.end(grown.trajectory, answer_of(grown.trajectory))
                return grown.trajectory
        raise AssertionError("a sample ends")

    def _vote(self, prompt_ids: tuple[int, ...]) -> None:
        """Show the answer of each sample as it ends, then the vote."""
        ended: dict[int, Trajectory] = {}
        for sample, grown in self._stream(prompt_ids, follows=False):
            if grown.trajectory is not None:
                ended[sample] = grown.trajectory
                self._console.print(_line(sample, grown.trajectory), highlight=False)
        answers = [answer for number in sorted(ended) if (answer := answer_of(ended[number]))]
        self._console.print(vote_table(answers, self._samples))

    def _stream(self, prompt_ids: tuple[int, ...], follows: bool) -> Iterator[tuple[int, Grown]]:
        """Yield (sample, growth) until all samples have ended. Closing the generator drops those that have not."""
        growth: SimpleQueue[tuple[int, Grown | Exception]] = SimpleQueue()
        name = secrets.token_hex(8)
        requests = [RolloutRequest(name, i, prompt_ids, self._seed + i) for i in range(self._samples)]
        for request in requests:

            def listen(grown: Grown | Exception, sample: int = request.sample) -> None:
                growth.put((sample, grown))

            self._resident.ask(request, listen, follows)
        left = len(requests)
        try:
            while left:
                sample, grown = growth.get()
                if isinstance(grown, Exception):
                    raise grown
                left -= grown.trajectory is not None
                yield sample, grown
        finally:
            for request in requests if left else ():
                self._resident.drop(request.id)


def vote_table(answers: list[str], samples: int) -> Table:
    """Count the samples of each answer, the most frequent first. Equal values are one answer."""
    names = dict(zip(answers, pooled(answers), strict=True))
    counts = Counter(names[answer] for answer in answers).most_common()
    table = Table(box=None, padding=(0, 1), show_header=False)
    for place, (answer, count) in enumerate(counts):
        style = "bold green" if place == 0 else ""
        table.add_row(Text(answer, style=style), Text("█" * count, style=style), f"{count} of {samples}")
    if len(answers) < samples:
        table.add_row(Text("no answer", style="dim"), "", f"{samples - len(answers)} of {samples}")
    return table


def _line(sample: int, trajectory: Trajectory) -> Text:
    """Return one line for a sample: its answer, number of calls and length."""
    cut = ", cut off" if trajectory.finish is FinishReason.LENGTH else ""
    calls, tokens = len(trajectory.calls), len(trajectory.response_ids)
    return Text.assemble(
        f"{sample + 1}: ",
        (answer_of(trajectory) or "no answer", "bold"),
        (f"  {calls} calls, {tokens} tokens{cut}", "dim"),
    )
