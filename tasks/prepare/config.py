"""The problem sets: the section `data` of the configuration tree. Checked before anything is fetched."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.shared.config import Section
from tasks.shared.config.section import require_absolute


class ProblemSource(Section):
    """One problem set: from the registry in `data/`, a hub dataset, local files, or the tiny world."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # names files and metrics
    # the last two are generated, see data/families
    source: Literal["registry", "hub", "file", "tiny", "words"]
    id: str = ""  # registry name or hub dataset id
    revision: str = ""
    subset: str = ""
    split: str = "train"  # of a folder too; of generated worlds: train | held_out | held_out_family
    path: str = ""  # JSONL, JSON, CSV or parquet, also packed (.gz, .bz2, .xz), or a folder of such files
    problem_column: str = "problem"
    answer_column: str = "answer"
    answer: Literal["integer", "expression"] = "integer"  # integer: 0 to 999, as in AIME
    several_answers: Literal["refuse", "set"] = "refuse"  # in one row; set: an answer must name all of them
    limit: int | None = Field(None, ge=1)  # only the first so many; of generated worlds: their number

    @model_validator(mode="after")
    def _source_is_complete(self) -> Self:
        where = f"problem set '{self.name}'"
        if self.source == "file" and not self.path:
            raise ValueError(f"{where}: source = 'file' needs path")
        require_absolute(f"{where}: path", self.path)
        if self.source == "hub" and not (self.id and self.revision):
            raise ValueError(f"{where}: source = 'hub' needs id and revision (a commit hash)")
        if self.source == "registry" and not self.id:
            raise ValueError(f"{where}: source = 'registry' needs id, a name in data/registry.toml")
        if self.source in ("tiny", "words") and self.split not in ("train", "held_out", "held_out_family"):
            raise ValueError(
                f"{where}: split = '{self.split}' is not in the {self.source} world; use train, held_out or "
                "held_out_family"
            )
        return self


class DataConfig(Section):
    """The problem sets, and how training problems are decontaminated."""

    train: tuple[ProblemSource, ...] = Field(min_length=1)
    evaluation: tuple[ProblemSource, ...] = Field(min_length=1)
    decontaminate_ngram: int = Field(8, ge=1)  # words of normalised text (rStar2, open-r1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [source.name for source in (*self.train, *self.evaluation)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"data: problem set name {twice[0]!r} is used twice; rename one")
        return self
