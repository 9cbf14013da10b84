"""What a stage is. Each `tasks/<stage>/spec.py` says it once and hands it down; `tasks/recipes` lists the stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.config import StageConfig

Config = TypeVar("Config", bound=StageConfig)


@dataclass(frozen=True, slots=True)
class StageSpec(Generic[Config]):
    """One stage. Nothing has a default: a stage says all of it."""

    name: str  # of its folder in `tasks`
    config: type[Config]
    # name -> kind of artifact; `rollouts or evaluation`: either of two kinds; `rollouts_*`: any name that begins so
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    runs_code: bool  # executes what models write, so it needs an interpreter
    secrets: tuple[str, ...]  # variables that it is given, besides keys that its configuration names
    network: Callable[[Config], bool]  # does it need one, apart from store, sinks and pool?
    engine: Callable[[Config], str]  # what samples in its process, "" for nothing
    vllm_image: str  # role of the image in which it samples with vLLM, "" if it never does

    def require_known(self, given: Mapping[str, ArtifactRef]) -> None:
        """Raise ValueError for an input that the stage does not have, or that is of another kind."""
        for name, ref in given.items():
            kinds = next((kinds for known, kinds in self.inputs.items() if fnmatchcase(name, known)), "")
            if ref.kind not in kinds.split(" or "):
                known = f"takes {kinds} there" if kinds else f"has {', '.join(self.inputs) or 'no inputs'}"
                raise ValueError(f"input '{name}', of kind {ref.kind}: stage '{self.name}' {known}")
