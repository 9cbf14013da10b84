"""The teacher that a recipe asks for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks.shared.config import SynthesizeStage
from tasks.shared.stage import StageContext
from tasks.synthesize.teachers.prompting import Wanted
from tasks.synthesize.teachers.responses import ResponseLog
from tasks.synthesize.teachers.script import ScriptTeacher
from tasks.synthesize.traces import WrittenTrace
from tasks.synthesize.verify import Rules

if TYPE_CHECKING:
    from tasks.shared.sandbox import Interpreter


class Teacher(Protocol):
    """Writes traces, in any order; one that it could not write says so itself (`WrittenTrace.loss`)."""

    # what writing took, once it is done
    metrics: dict[str, float | int]

    def write(self, wanted: Sequence[Wanted]) -> Iterator[WrittenTrace]:
        """The wanted traces as they finish; a budget may leave some out."""


def make_teacher(
    context: StageContext[SynthesizeStage], rules: Rules, interpreter: "Interpreter", log: ResponseLog
) -> Teacher:
    """The teacher of `synthesize.mode` and `synthesize.teacher.backend`."""
    config, seed = context.config, context.request.seed
    if config.synthesize.uses_endpoint:
        from tasks.synthesize.teachers.endpoint import EndpointTeacher

        return EndpointTeacher(config, rules, interpreter, log, seed)
    if config.synthesize.uses_engine:
        from tasks.synthesize.teachers.engine import EngineTeacher, Weights

        if config.synthesize.mode == "bootstrap":
            ref = context.request.inputs.get("checkpoint")
            weights = Weights(context.input("checkpoint"), ref.digest[:16] if ref else "")
        else:
            path = Path(config.synthesize.teacher.model)
            weights = Weights(path, path.name)
        return EngineTeacher(config, rules, interpreter, log, seed, weights)
    return ScriptTeacher(config.synthesize, rules, interpreter, seed)
