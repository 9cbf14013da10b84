"""The stage contract: one JSON request in, one JSON result out; no Prefect in the process.

`python -m tasks.<stage>.main request.json` runs any stage by hand. Progress goes out as JSON lines on stdout, which
the launcher turns into logs; the result is written beside the request as `result.json`.
"""

import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from tasks.shared.artifacts import ArtifactRef, Provenance, Store
from tasks.shared.contract.code_digest import code_digest
from tasks.shared.contract.documents import write_whole
from tasks.shared.contract.environment import image_digest, load_secrets
from tasks.shared.contract.full_disk import IN_SCRATCH, FullDisk, reported_as_full_disk
from tasks.shared.contract.spec import Config, StageSpec

POOL = "pool"  # below `Rendezvous.shared`: where hosts that sample and the first one meet
Value = float | int | str | bool | None


class TrainingStopped(RuntimeError):
    """Training further would damage the policy. What is saved is intact. The message names the cause and the remedy."""


class Rendezvous(BaseModel):
    """How the processes of a stage over several hosts find each other, and the number of this host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: int  # number of hosts
    node: int  # this host, from 0; the first publishes
    address: str  # of the first host, as the others reach it
    port: int
    shared: str  # a directory that all hosts share, with checkpoints to resume from
    samplers: int = 0  # number of hosts, the last ones, that only sample for the others

    @property
    def trainers(self) -> int:
        """Number of hosts, the first ones, that do the stage's own work."""
        return self.nodes - self.samplers

    @property
    def only_samples(self) -> bool:
        """Whether this host only samples for the others."""
        return self.node >= self.trainers


class StageRequest(BaseModel):
    """Everything a stage needs to run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    run: str  # name of the pipeline run, for people
    config: dict[str, Any]  # the stage's resolved sections
    inputs: dict[str, ArtifactRef]
    seed: int
    store: str  # artifact store: a directory or an fsspec URI
    scratch: str  # a local directory kept for the same request, with checkpoints to resume from
    files: tuple[str, ...] = ()  # local files and folders that it reads besides its inputs
    # for a stage over several hosts; requests of earlier versions call it `meeting`
    rendezvous: Rendezvous | None = Field(None, validation_alias=AliasChoices("rendezvous", "meeting"))


class StageResult(BaseModel):
    """The result of a stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outputs: dict[str, ArtifactRef]
    metrics: dict[str, Value]  # headline numbers
    seconds: float = 0.0


@dataclass(slots=True)
class StageContext(Generic[Config]):
    """The tools of a stage's `run`: typed configuration, verified inputs, publication, progress."""

    request: StageRequest
    config: Config
    store: Store
    scratch: Path
    code: str = field(init=False)  # digest of the sources when the stage starts

    def __post_init__(self) -> None:
        self.code = code_digest(self.request.stage)

    def input(self, name: str) -> Path:
        """Return the local directory of an input artifact, every byte checked against its manifest."""
        if name not in self.request.inputs:
            given = ", ".join(sorted(self.request.inputs)) or "none"
            raise ValueError(f"stage '{self.request.stage}' needs input '{name}'; the request has: {given}")
        return self.store.fetch(self.request.inputs[name])

    @contextmanager
    def output(self, kind: str, metrics: dict[str, Value] | None = None) -> Iterator["Output"]:
        """Yield a temporary directory. It is published if the block ends without an error, else not at all."""
        provenance = Provenance(
            stage=self.request.stage,
            config=self.request.config,
            seed=self.request.seed,
            inputs=self.request.inputs,
            code=self.code,
            image=image_digest(),
        )
        with self.store.staging(kind) as directory:
            output = Output(directory, metrics or {})
            yield output
            output.ref = self.store.publish(kind, directory, provenance, output.metrics)

    def fingerprint(self, num_ranks: int = 1) -> str:
        """Identify the state in the scratch directory: configuration, inputs, seed, and the number of its ranks."""
        request, inputs = self.request, {name: ref.digest for name, ref in self.request.inputs.items()}
        parts = {"config": request.config, "inputs": inputs, "seed": request.seed, "ranks": num_ranks}
        return json.dumps(parts, sort_keys=True)

    def progress(self, step: int, total: int, **metrics: Value) -> None:
        """Report `step` of `total` with the numbers worth watching."""
        emit("progress", step=step, total=total, metrics=metrics)

    def log(self, message: str) -> None:
        """Write one line for people."""
        emit("log", message=message)


@dataclass(slots=True)
class Output:
    """An artifact that is being written. `ref` is set once it is published."""

    directory: Path
    metrics: dict[str, Value]
    ref: ArtifactRef = field(init=False)


def emit(event: str, **fields: Any) -> None:
    """Write one event as a JSON line on stdout."""
    sys.stdout.write(json.dumps({"event": event, "time": round(time.time(), 3), **fields}) + "\n")
    sys.stdout.flush()


def open_context(spec: StageSpec[Config], request: StageRequest) -> StageContext[Config]:
    """Return what the stage works with. Raises ValueError for a configuration or an input that it does not take."""
    spec.require_known(request.inputs)
    config = spec.config.model_validate(request.config)
    scratch = Path(request.rendezvous.shared if request.rendezvous else request.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    return StageContext(request, config, Store(request.store), scratch)


def stage_main(spec: StageSpec[Config], run: Callable[[StageContext[Config]], StageResult]) -> int:
    """Run `python -m tasks.<stage>.main request.json`. Returns the exit code.

    A user's mistake (ValueError), a failing disk or store (OSError) and a training run that stops itself
    (TrainingStopped) end in one line that names the cause; 2, 3 and 4; the traceback goes to the log. Anything else is
    our defect and ends in its traceback.
    """
    if len(sys.argv) != 2:
        sys.stderr.write(f"usage: python -m tasks.{spec.name}.main request.json\n")
        return 2
    path = Path(sys.argv[1])
    if not path.is_file():
        sys.stderr.write(
            f"{path}: no such file; a run's requests lie in <home>/scratch/<stage>-<key>/request.json\n"
        )
        return 2
    load_secrets()
    try:
        request = StageRequest.model_validate_json(path.read_text())
        context = open_context(spec, request)
        random.seed(request.seed)
        started = time.monotonic()
        with reported_as_full_disk(IN_SCRATCH, request.scratch):
            result = run(context)
            assert all(spec.outputs[name] == ref.kind for name, ref in result.outputs.items()), result.outputs
            result = result.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
            write_whole(path.with_name("result.json"), result.model_dump_json(indent=2))
    except ValidationError as error:
        mistake = error.errors()[0]
        key = ".".join(str(part) for part in mistake["loc"])
        emit("error", kind="input", message=f"{path}: key '{key}': {mistake['msg']}")
        return 2
    except ValueError as error:
        traceback.print_exc()
        emit("error", kind="input", message=(str(error) or repr(error)).splitlines()[0])
        return 2
    except OSError as error:
        traceback.print_exc()
        emit("error", kind="storage", message=_explain(error))
        return 3
    except TrainingStopped as error:
        traceback.print_exc()
        emit("error", kind="training", message=str(error))
        return 4
    emit("result", **json.loads(result.model_dump_json()))
    return 0


def _explain(error: OSError) -> str:
    """Return one line: cause, path, and the remedy unless the error has it already."""
    if not error.errno:
        return str(error)
    cause = ": ".join(str(part) for part in (error.strerror, error.filename) if part)
    if isinstance(error, FullDisk):
        return cause
    return f"{cause}; repair it, or point TIRFLOW_STORE (artifacts) or TIRFLOW_HOME (scratch) elsewhere; run again"
