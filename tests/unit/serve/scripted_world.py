"""A resident whose model says what it is told, with a real interpreter under it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tasks.serve.conversation import Prompts
from tasks.serve.resident import Resident
from tasks.shared.config import EvaluateStage
from tasks.shared.generation.interleave import RolloutPolicy
from tasks.shared.generation.protocol import Sampling
from tasks.shared.interpreter import make_interpreter
from tests.integration.evaluation_world import evaluate_stage
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.generation.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CALL = "Compute.\n<code>\n```python\nprint(6 * 7)\n```\n</code>"
SHOWN = "\n<interpreter>\n42\n</interpreter>\n"
ANSWER = "<answer>\n\\boxed{42}\n</answer>"


class BySample(dict[str, str]):
    """The script of sample i of any request."""

    def __init__(self, scripts: Sequence[str]) -> None:
        super().__init__()
        self._scripts = scripts

    def __missing__(self, request_id: str) -> str:
        return self._scripts[int(request_id.rpartition("/")[2]) % len(self._scripts)]


def small_stage(**generation: object) -> EvaluateStage:
    """The sections of a small evaluation with room for a trace with code."""
    stage = evaluate_stage()
    changed = {"max_response_tokens": 200, "max_prompt_tokens": 200} | generation
    return stage.model_copy(update={"generation": stage.generation.model_copy(update=changed)})


@contextmanager
def scripted(scripts: Sequence[str], stage: EvaluateStage | None = None) -> Iterator[Resident]:
    """A resident that says `scripts[i]` in sample i."""
    stage = stage or small_stage()
    policy = RolloutPolicy.of(stage.traces, stage.sandbox, stage.generation, Sampling())
    generator = ScriptedGenerator(TOKENIZER, BySample(scripts))
    with make_interpreter(stage.sandbox) as interpreter:
        prompts = Prompts(TOKENIZER, stage)
        resident = Resident(
            generator, interpreter, TOKENIZER, replace(policy, delivery="ready"), prompts, 1024
        )
        try:
            yield resident
        finally:
            resident.close()
