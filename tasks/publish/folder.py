"""Collect the files to publish of an artifact: its own files, and a new card, certificate and recipe."""

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
    """What to publish with an artifact."""

    repo: str  # OWNER/NAME
    licence: str = ""  # as hubs name it: apache-2.0
    evaluation: ArtifactRef | None = None  # for the card; None takes the checkpoint's newest
    against: Mapping[str, ArtifactRef] = field(default_factory=dict)  # evaluations to compare with, by name
    without_evaluation: bool = False
    without_certificate: bool = False
    base: str = ""  # hub id of an adapter's base, if the lineage names none


def collect(store: Store, ref: ArtifactRef, request: PublicationRequest, scratch: Path) -> dict[str, Path]:
    """Return every file to publish by its path in the repository. New files are written to `scratch`, a new folder.

    Raises ValueError for a kind that is not published, a checkpoint without an evaluation, or an adapter whose base is
    on no hub, and ArtifactError for a damaged or missing artifact.
    """
    if ref.kind not in MODELS + DATASETS:
        raise ValueError(f"{ref.location}: a {ref.kind} is not published; {', '.join(MODELS + DATASETS)} are")
    manifest = store.manifest(ref)
    checkpoint = _merged_checkpoint(store, manifest) if ref.kind == "adapter" else manifest
    evaluation = None
    if ref.kind in MODELS and not request.without_evaluation:
        evaluation = request.evaluation or newest_evaluation(store, checkpoint.ref)
        if evaluation is None:
            raise ValueError(
                f"{checkpoint.location}: no evaluation of it in this store, and a card needs scores: evaluate it, "
                "name an evaluation with --evaluation, or publish it --without-evaluation"
            )
    source = store.fetch(ref)
    paths = [entry.path for entry in manifest.files if not entry.path.startswith(f"{VOLATILE}/")]
    files = {path: source / path for path in paths}
    if ref.kind in DATASETS:
        own_card = (source / "README.md").read_text(encoding="utf-8") if "README.md" in files else ""
        card = dataset_card(request.repo, story_of(store, ref), request.licence, manifest, own_card)
        return files | {"README.md": _write(scratch / "README.md", card)}
    if ref.kind == "adapter":
        tokenizer = store.fetch(checkpoint.ref)
        names = [entry.path for entry in checkpoint.files if entry.path.startswith(TOKENIZER)]
        files |= {name: tokenizer / name for name in names}
        files["adapter_config.json"] = _with_base(store, manifest, source, request.base, scratch)
    return files | _card_and_certificate(store, ref, checkpoint.ref, evaluation, request, scratch)


def newest_evaluation(store: Store, checkpoint: ArtifactRef) -> ArtifactRef | None:
    """Return the newest evaluation of a checkpoint, or None."""
    found = [
        manifest
        for manifest in made_from(store, checkpoint.location)
        if manifest.kind == "evaluation" and manifest.provenance.inputs.get("checkpoint") == checkpoint
    ]
    return max(found, key=lambda manifest: manifest.created).ref if found else None


def _card_and_certificate(
    store: Store,
    ref: ArtifactRef,
    checkpoint: ArtifactRef,
    evaluation: ArtifactRef | None,
    request: PublicationRequest,
    scratch: Path,
) -> dict[str, Path]:
    """Write the card, and certificate and recipe if there is an evaluation."""
    files: dict[str, Path] = {}
    facts, config, sha256 = None, None, ""
    if evaluation is not None:
        manifest = store.manifest(evaluation)
        evaluated = manifest.provenance.inputs.get("checkpoint")
        if evaluated != checkpoint:
            other = evaluated and evaluated.location
            raise ValueError(f"{evaluation.location}: an evaluation of another checkpoint ({other})")
        name = request.repo.partition("/")[2]
        certificate = scratch / "certificate.tar"
        sha256 = certify(store, evaluation, name, dict(request.against), certificate)
        facts = open_evidence(certificate, scratch / "certificate").certificate.facts
        config = evaluate_config(manifest)
        files["recipe.toml"] = _write(scratch / "recipe.toml", recipe_toml(config))
        if request.without_certificate:
            sha256 = ""
        else:
            files["certificate.tar"] = certificate
    story, is_adapter = story_of(store, ref), ref.kind == "adapter"
    card = model_card(request.repo, story, request.licence, is_adapter, facts, config, sha256)
    return files | {"README.md": _write(scratch / "README.md", card)}


def _merged_checkpoint(store: Store, adapter: Manifest) -> Manifest:
    """Return the checkpoint that the adapter's stage published with the adapter merged into it."""
    for location in store.locations():
        if location.startswith("checkpoint/"):
            manifest = store.read(location)
            if manifest.provenance == adapter.provenance:
                return manifest
    raise ValueError(
        f"{adapter.location}: the merged checkpoint that its stage published, which has its tokenizer and evaluations, "
        "is no longer in the store; run the stage again"
    )


def _with_base(store: Store, adapter: Manifest, source: Path, base: str, scratch: Path) -> Path:
    """Write `adapter_config.json` with the hub id of the base instead of its location in this store."""
    config: dict[str, Any] = json.loads((source / "adapter_config.json").read_text())
    location = config["base_model_name_or_path"]
    named = next((ref for ref in adapter.provenance.inputs.values() if ref.location == location), None)
    provenance = store.manifest(named).provenance if named and store.exists(named) else None
    model = provenance.config.get("model", {}) if provenance and provenance.stage == "prepare" else {}
    if base:
        config["base_model_name_or_path"], config["revision"] = base, None
    elif model.get("source") == "hub":
        config["base_model_name_or_path"], config["revision"] = model["id"], model["revision"]
    else:
        raise ValueError(
            f"{adapter.location}: its base {location} is on no hub; publish that first and name it with --base "
            "OWNER/NAME, or publish the merged checkpoint"
        )
    return _write(scratch / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
