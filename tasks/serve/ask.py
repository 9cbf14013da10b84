"""`tirflow ask`: a question or a conversation in the terminal, with code that runs while the answer is written.

Words stream as they are sampled, programs line by line in colour, what they printed when they have run; the answer
stands out. With several samples, their vote. Sample i of a question has the seed `seed + i`.
"""

import secrets
from collections import Counter
from collections.abc import Iterator
from queue import SimpleQueue

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.serve.conversation import Message
from tasks.serve.parts import Grown, Parts
from tasks.serve.printing import Printer
from tasks.serve.request import ServeRequest
from tasks.serve.resident import Resident, open_resident
from tasks.shared.contract.environment import quieten_engines
from tasks.shared.generation.interleave import RolloutRequest
from tasks.shared.grading import last_box, pooled
from tasks.shared.traces.trajectory import FinishReason, Trajectory


def ask(request: ServeRequest, console: Console | None = None) -> int:
    """Answer the question of `request`, or one after the other from the terminal; the exit code."""
    quieten_engines()
    console = console or Console()
    with console.status(f"loading {request.name}"):
        opened = open_resident(request)
        resident = opened.__enter__()
    try:
        asker = Asker(resident, console, request)
        if request.question:
            asker.answer(request.question)
        else:
            asker.converse()
    finally:
        opened.__exit__(None, None, None)
    return 0


class Asker:
    """Asks one resident checkpoint and shows what it says."""

    def __init__(self, resident: Resident, console: Console, request: ServeRequest) -> None:
        self._resident = resident
        self._console = console
        self._samples = request.samples
        self._seed = secrets.randbits(31) if request.seed is None else request.seed
        self._said: list[Message] = []

    def converse(self) -> None:
        """One question after the other until an empty line or the end of input; an interrupt ends an answer only."""
        self._console.print("An empty line ends the conversation.", style="dim")
        while question := self._next_question():
            try:
                self.answer(question)
            except ValueError as error:
                self._console.print(f"error: {error}", style="red", markup=False)
            except KeyboardInterrupt:
                self._console.print("\nstopped", style="dim")

    def answer(self, question: str) -> None:
        """Ask and show. ValueError: the prompt is too long."""
        kept = self._said if self._resident.prompts.converses and self._samples == 1 else []
        messages = [*kept, Message("user", question)]
        prompt_ids = self._resident.prompts.of(messages)
        self._console.print(f"seed {self._seed}", style="dim")
        if self._samples > 1:
            self._vote(prompt_ids)
        else:
            trajectory = self._follow(prompt_ids)
            self._said = [*messages, Message("assistant", trajectory.text)]
        self._seed += self._samples

    def _next_question(self) -> str:
        try:
            return self._console.input("[bold]> [/]").strip()
        except (EOFError, KeyboardInterrupt):
            return ""

    def _follow(self, prompt_ids: tuple[int, ...]) -> Trajectory:
        """Show one sample while it grows; the trajectory."""
        printer = Printer(self._console, self._resident.policy.dialect)
        parts = Parts(self._resident.decode)
        for _, grown in self._sampled(prompt_ids, follows=True):
            for part in parts.take(grown):
                printer.show(part)
            if grown.trajectory is not None:
                printer.end(grown.trajectory, answer_of(grown.trajectory))
                return grown.trajectory
        raise AssertionError("a sample ends")

    def _vote(self, prompt_ids: tuple[int, ...]) -> None:
        """Show the answers of all samples as they come, and which one most gave."""
        ended: dict[int, Trajectory] = {}
        for sample, grown in self._sampled(prompt_ids, follows=False):
            if grown.trajectory is not None:
                ended[sample] = grown.trajectory
                self._console.print(_line(sample, grown.trajectory), highlight=False)
        answers = [answer for number in sorted(ended) if (answer := answer_of(ended[number]))]
        self._console.print(vote_table(answers, self._samples))

    def _sampled(self, prompt_ids: tuple[int, ...], follows: bool) -> Iterator[tuple[int, Grown]]:
        """What grows, by number of the sample, until all have ended; whatever ends this ends them."""
        heard: SimpleQueue[tuple[int, Grown | Exception]] = SimpleQueue()
        name = secrets.token_hex(8)
        requests = [RolloutRequest(name, i, prompt_ids, self._seed + i) for i in range(self._samples)]
        for request in requests:

            def listen(said: Grown | Exception, sample: int = request.sample) -> None:
                heard.put((sample, said))

            self._resident.ask(request, listen, follows)
        left = len(requests)
        try:
            while left:
                sample, said = heard.get()
                if isinstance(said, Exception):
                    raise said
                left -= said.trajectory is not None
                yield sample, said
        finally:
            for request in requests if left else ():
                self._resident.drop(request.id)


def answer_of(trajectory: Trajectory) -> str:
    """What stands in the last whole box of the model's own words, "" without one."""
    box = last_box(trajectory.own_words)
    return (box.content or "") if box is not None else ""


def vote_table(answers: list[str], samples: int) -> Table:
    """How many samples gave each answer, equal values as one, the most first."""
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
    """One sample in a line: its answer, its calls, its length."""
    cut = ", cut off" if trajectory.finish is FinishReason.LENGTH else ""
    calls, tokens = len(trajectory.calls), len(trajectory.response_ids)
    return Text.assemble(
        f"{sample + 1}: ",
        (answer_of(trajectory) or "no answer", "bold"),
        (f"  {calls} calls, {tokens} tokens{cut}", "dim"),
    )
