"""What is published of an artifact: its files in the store, and beside them card, certificate and recipe made here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.prove.certify import certify
from tasks.prove.evidence import open_evidence
from tasks.prove.facts import evaluate_config
from tasks.publish.cards import dataset_card, model_card
from tasks.publish.recipe_file import recipe_toml
from tasks.publish.story import story_of
from tasks.shared.artifacts import VOLATILE, ArtifactRef, Manifest, Store
from tasks.shared.artifacts.lineage import made_from

MODELS, DATASETS = ("checkpoint", "adapter"), ("traces", "rollouts")
TOKENIZER = ("tokenizer", "special_tokens_map", "chat_template", "vocab", "merges", "added_tokens")


@dataclass(frozen=True, slots=True)
class PublicationRequest:
    """How something is published."""

    repo: str  # OWNER/NAME
    licence: str = ""  # as hubs name it: apache-2.0
    evaluation: ArtifactRef | None = None  # that the card speaks of; None: the newest of the checkpoint
    against: Mapping[str, ArtifactRef] = field(default_factory=dict)  # that it is compared with, by name
    without_evaluation: bool = False
    without_certificate: bool = False
    base: str = ""  # hub id of an adapter's base, where the lineage names none


def collect(store: Store, ref: ArtifactRef, wanted: PublicationRequest, scratch: Path) -> dict[str, Path]:
    """Every file to publish, by its path in the repository; what is made here lies in `scratch`, a new folder.

    ValueError, one line: a kind that is not published, a checkpoint without an evaluation, an adapter whose base nobody
    could find; ArtifactError: damaged or missing.
    """
    if ref.kind in DATASETS:
        return _dataset(store, ref, wanted, scratch)
    if ref.kind not in MODELS:
        raise ValueError(f"{ref.location}: a {ref.kind} is not published; {', '.join(MODELS + DATASETS)} are")
    manifest = store.manifest(ref)
    merged = manifest if ref.kind == "checkpoint" else _merged(store, manifest)
    evaluation = None
    if not wanted.without_evaluation:
        evaluation = wanted.evaluation or newest_evaluation(store, merged.ref)
    if evaluation is None and not wanted.without_evaluation:
        raise ValueError(
            f"{merged.location}: no evaluation of it in this store, and a card without scores says nothing: evaluate "
            "it, name one with --evaluation, or publish it --without-evaluation"
        )
    source = store.fetch(ref)
    files = {entry.path: source / entry.path for entry in manifest.files if not _is_circumstance(entry.path)}
    if ref.kind == "adapter":
        tokenizer = store.fetch(merged.ref)
        names = [entry.path for entry in merged.files if entry.path.startswith(TOKENIZER)]
        files |= {name: tokenizer / name for name in names}
        files["adapter_config.json"] = _with_base(store, manifest, source, wanted.base, scratch)
    return files | _beside(store, ref, evaluation, wanted, scratch)


def newest_evaluation(store: Store, checkpoint: ArtifactRef) -> ArtifactRef | None:
    """The evaluation of a checkpoint that was made last; None if there is none."""
    found = [
        manifest
        for manifest in made_from(store, checkpoint.location)
        if manifest.kind == "evaluation" and manifest.provenance.inputs.get("checkpoint") == checkpoint
    ]
    return max(found, key=lambda manifest: manifest.created).ref if found else None


def _beside(
    store: Store, ref: ArtifactRef, evaluation: ArtifactRef | None, wanted: PublicationRequest, scratch: Path
) -> dict[str, Path]:
    """Card, and where there is an evaluation certificate and recipe."""
    files: dict[str, Path] = {}
    facts, config, sha256 = None, None, ""
    if evaluation is not None:
        made = store.manifest(evaluation)
        of = made.provenance.inputs.get("checkpoint")
        own = ref if ref.kind == "checkpoint" else _merged(store, store.manifest(ref)).ref
        if of != own:
            raise ValueError(
                f"{evaluation.location}: an evaluation of another checkpoint ({of and of.location})"
            )
        name = wanted.repo.partition("/")[2]
        certificate = scratch / "certificate.tar"
        sha256 = certify(store, evaluation, name, dict(wanted.against), certificate)
        facts = open_evidence(certificate, scratch / "certificate").certificate.facts
        config = evaluate_config(made)
        files["recipe.toml"] = _write(scratch / "recipe.toml", recipe_toml(config))
        if wanted.without_certificate:
            sha256 = ""
        else:
            files["certificate.tar"] = certificate
    card = model_card(
        wanted.repo, story_of(store, ref), wanted.licence, ref.kind == "adapter", facts, config, sha256
    )
    return files | {"README.md": _write(scratch / "README.md", card)}


def _dataset(store: Store, ref: ArtifactRef, wanted: PublicationRequest, scratch: Path) -> dict[str, Path]:
    manifest, source = store.manifest(ref), store.fetch(ref)
    files = {entry.path: source / entry.path for entry in manifest.files if not _is_circumstance(entry.path)}
    own = (source / "README.md").read_text(encoding="utf-8") if "README.md" in files else ""
    card = dataset_card(wanted.repo, story_of(store, ref), wanted.licence, manifest, own)
    return files | {"README.md": _write(scratch / "README.md", card)}


def _is_circumstance(path: str) -> bool:
    return path.startswith(f"{VOLATILE}/")


def _merged(store: Store, adapter: Manifest) -> Manifest:
    """The checkpoint that the adapter's stage published beside it, in which it is merged."""
    for location in store.locations():
        if location.startswith("checkpoint/"):
            manifest = store.read(location)
            if manifest.provenance == adapter.provenance:
                return manifest
    raise ValueError(
        f"{adapter.location}: the checkpoint that was published with it, which has its tokenizer and evaluations, is "
        "in the store no more; run its stage again"
    )


def _with_base(store: Store, adapter: Manifest, source: Path, base: str, scratch: Path) -> Path:
    """`adapter_config.json` with a base that others can find, in place of a location in this store."""
    config: dict[str, Any] = json.loads((source / "adapter_config.json").read_text())
    location = config["base_model_name_or_path"]
    named = next((ref for ref in adapter.provenance.inputs.values() if ref.location == location), None)
    made = store.manifest(named).provenance if named and store.exists(named) else None
    model = made.config.get("model", {}) if made and made.stage == "prepare" else {}
    if base:
        config["base_model_name_or_path"], config["revision"] = base, None
    elif model.get("source") == "hub":
        config["base_model_name_or_path"], config["revision"] = model["id"], model["revision"]
    else:
        raise ValueError(
            f"{adapter.location}: its base {location} is on no hub; publish that first and name it with --base "
            "OWNER/NAME, or publish the checkpoint in which it is merged"
        )
    return _write(scratch / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
