"""The origin of an artifact, for its card: stages, base model, and data with licences. Only manifests are read.

Paths, addresses and names of keys in a recipe stay out of a card.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from data.registry import load_registry
from tasks.recipes import Recipe
from tasks.shared.artifacts import ArtifactRef, Manifest, Store
from tasks.shared.artifacts.lineage import lineage

MADE_HERE = "made by tirflow's own generator, free of third-party text"


@dataclass(frozen=True, slots=True)
class Source:
    """A data set or model that an artifact was made from."""

    name: str
    use: str  # training, evaluation, teacher
    id: str  # where it is published, or ""
    revision: str
    licence: str


@dataclass(frozen=True, slots=True)
class Step:
    """A stage that led to an artifact."""

    stage: str
    location: str
    seed: int
    inputs: str
    settings: str  # that differ from the defaults of this version


@dataclass(frozen=True, slots=True)
class Story:
    """The origin of an artifact as its card describes it."""

    steps: list[Step]
    sources: list[Source]
    base: Source | None
    gone: list[str]  # ancestors that are no longer in the store


def story_of(store: Store, ref: ArtifactRef) -> Story:
    """Return the origin of an artifact, oldest step first. Raises ArtifactError if a manifest is damaged."""
    found = lineage(store, ref)
    manifests = [manifest for manifest in reversed(found.values()) if manifest is not None]
    steps: dict[tuple[str, str], Step] = {}
    for manifest in manifests:
        steps.setdefault((manifest.provenance.stage, manifest.provenance.digest), _step(manifest))
    prepared = [m.provenance.config for m in manifests if m.provenance.stage == "prepare"]
    written = [m.provenance.config["synthesize"] for m in manifests if "synthesize" in m.provenance.config]
    sources = [source for config in prepared for source in _of_data(config.get("data", {}))]
    sources += [source for config in written for source in _of_synthesis(config)]
    bases = [_of_model(config["model"]) for config in prepared if "model" in config]
    gone = [parent.location for parent, manifest in found.items() if manifest is None]
    return Story(list(steps.values()), list(dict.fromkeys(sources)), bases[0] if bases else None, gone)


def _step(manifest: Manifest) -> Step:
    provenance, stage = manifest.provenance, manifest.provenance.stage
    inputs = ", ".join(f"{name} {ref.location}" for name, ref in provenance.inputs.items())
    own, section = provenance.config.get(stage, {}), Recipe.model_fields.get(stage)
    settings = _settings(own, section.default.model_dump(mode="json")) if section else ""
    return Step(stage, manifest.location, provenance.seed, inputs or "nothing", settings)


def _settings(section: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> str:
    """List numbers, switches and choices that differ from the defaults, but no paths and no names of keys."""
    found = []
    for key, value in section.items():
        default = defaults.get(key)
        if isinstance(value, Mapping):
            inner = _settings(value, default if isinstance(default, Mapping) else {}, f"{prefix}{key}.")
            found += [inner] if inner else []
        elif value != default and _is_harmless(key, value):
            found.append(f"{prefix}{key} = {value}")
    return ", ".join(found)


def _is_harmless(key: str, value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return True
    named = key.endswith(("path", "key_variable", "url", "address", "addresses", "responses", "prompt"))
    return isinstance(value, str) and not named and "/" not in value and ":" not in value


def _of_data(data: Mapping[str, Any]) -> Iterable[Source]:
    """Yield the problem sets of a recipe."""
    registry = load_registry()
    for key, purpose in (("train", "training"), ("evaluation", "evaluation")):
        for entry in data.get(key, ()):
            name, known = entry["name"], registry.get(entry.get("id", ""))
            if entry["source"] == "registry" and known is not None:
                yield Source(name, purpose, known.id, known.revision, known.licence)
            elif entry["source"] == "hub":
                yield Source(name, purpose, entry["id"], entry["revision"], "see its page on the hub")
            elif entry["source"] == "file":
                licence = f"not known to tirflow: a local file ({PurePath(entry['path']).name})"
                yield Source(name, purpose, "", "", licence)
            else:
                yield Source(name, purpose, "", "", MADE_HERE)


def _of_synthesis(section: Mapping[str, Any]) -> Iterable[Source]:
    """Yield the teacher of the traces, and the text that it rewrote."""
    mode, teacher, text = section.get("mode"), section.get("teacher", {}), section.get("source", {})
    if mode == "script":
        yield Source("scripted teacher", "teacher", "", "", MADE_HERE)
    elif mode in ("rewrite", "live"):
        name = PurePath(teacher.get("model") or "not named").name
        yield Source(name, "teacher", "", "", "see the terms of the model or service for its output")
    if mode == "rewrite" and text.get("source") == "hub":
        yield Source("text traces", "training", text["id"], text["revision"], "see its page on the hub")


def _of_model(model: Mapping[str, Any]) -> Source:
    if model["source"] == "hub":
        return Source(model["id"], "base model", model["id"], model["revision"], "see its page on the hub")
    if model["source"] == "tiny":
        return Source("untrained tiny model", "base model", "", "", "made by tirflow")
    return Source(PurePath(model["path"]).name, "base model", "", "", "not known to tirflow: a local folder")
