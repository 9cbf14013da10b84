"""The teacher that a recipe asks for."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks.shared.contract.stage import StageContext
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.teachers.prompting import TraceRequest
from tasks.synthesize.teachers.script import ScriptTeacher
from tasks.synthesize.traces import WrittenTrace
from tasks.synthesize.verify import Rules

if TYPE_CHECKING:
    from tasks.shared.tools.protocol import Tool
    from tasks.synthesize.teachers.engine import Weights


class Teacher(Protocol):
    """Writes traces, in any order; one that it could not write has a `WrittenTrace.loss`."""

    metrics: dict[str, float | int]  # the cost, once all traces are written

    def write(self, requests: Sequence[TraceRequest]) -> Iterator[WrittenTrace]:
        """The requested traces as they finish; a budget may leave some out."""


def make_teacher(
    context: StageContext[SynthesizeStage], rules: Rules, interpreter: "Tool", log: ResponseLog
) -> Teacher:
    """The teacher of `synthesize.mode` and `synthesize.teacher.backend`."""
    config, seed = context.config, context.request.seed
    if config.synthesize.uses_endpoint:
        from tasks.synthesize.teachers.endpoint import EndpointTeacher

        return EndpointTeacher(config, rules, interpreter, log, seed)
    if config.synthesize.uses_engine:
        from tasks.synthesize.teachers.engine import EngineTeacher

        weights = teacher_weights(context)
        return EngineTeacher(config, rules, interpreter, log, seed, weights, context.request.rendezvous)
    return ScriptTeacher(config.synthesize, rules, interpreter, seed)


def teacher_weights(context: StageContext[SynthesizeStage]) -> "Weights":
    """The model that writes with an engine: this project's checkpoint, or the teacher's directory."""
    from tasks.synthesize.teachers.engine import Weights

    if context.config.synthesize.mode == "bootstrap":
        checkpoint = context.input("checkpoint")
        digest = context.request.inputs["checkpoint"].digest
        return Weights(checkpoint, digest[:16], digest)
    path = Path(context.config.synthesize.teacher.model)
    return Weights(path, path.name, _files_digest(path))


def _files_digest(directory: Path) -> str:
    """sha256 over the names and contents of a model's files, because directories of two models may have one name."""
    if not directory.is_dir():
        raise ValueError(f"synthesize.teacher.model = '{directory}': no such save_pretrained directory")
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.is_file():
            with path.open("rb") as stream:
                digest.update(f"{path.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
