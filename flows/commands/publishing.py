"""`tirflow publish`: a checkpoint, adapter or dataset with its card to a hub, or as a folder to look at first."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flows.commands.prove import find_evaluation, find_made
from tasks.publish.folder import DATASETS, PublicationRequest, collect
from tasks.publish.hub import RepoType, check_name, upload
from tasks.shared.artifacts import Store
from tasks.shared.contract.environment import hub_endpoint, hub_token


def publish(
    store: Store,
    artifact: str,
    repo: str,
    licence: str,
    evaluation: str,
    against: Sequence[str],
    without_evaluation: bool,
    without_certificate: bool,
    base: str,
    private: bool,
    dry_run: str,
) -> int:
    """Publish; the exit code. `dry_run`: a folder that is written in place of it. Mistakes before anything is made."""
    check_name(repo)
    folder = Path(dry_run).resolve() if dry_run else None
    if folder is not None and folder.exists():
        raise ValueError(f"{folder}: there already; move it away or name another folder")
    token = "" if folder else hub_token()
    ref = find_made(store, artifact)
    wanted = PublicationRequest(
        repo,
        licence,
        find_evaluation(store, evaluation) if evaluation else None,
        {name: find_evaluation(store, name) for name in against},
        without_evaluation,
        without_certificate,
        base,
    )
    with tempfile.TemporaryDirectory(prefix="tirflow-publish-") as scratch:
        files = collect(store, ref, wanted, Path(scratch))
        if folder is not None:
            _write(files, folder)
            sys.stdout.write(f"{folder}: {len(files)} files, nothing was sent; README.md is the card\n")
            return 0
        kind: RepoType = "dataset" if ref.kind in DATASETS else "model"
        sys.stdout.write(f"{upload(files, repo, kind, hub_endpoint(), token, private)}\n")
    return 0


def _write(files: dict[str, Path], folder: Path) -> None:
    """Copies, so that who edits them does not edit the store."""
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
