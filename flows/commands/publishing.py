"""`tirflow publish`: upload a checkpoint, adapter or dataset with its card to a hub, or write it to a folder."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flows.names import find, find_evaluation
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
    """Publish, or with `dry_run` write that folder instead. Returns the exit code. Mistakes are found first."""
    check_name(repo)
    folder = Path(dry_run).resolve() if dry_run else None
    if folder is not None and folder.exists():
        raise ValueError(f"{folder}: exists already; move it away or name another folder")
    token = "" if folder else hub_token()
    ref, _ = find(store, artifact)
    request = PublicationRequest(
        repo,
        licence,
        find_evaluation(store, evaluation) if evaluation else None,
        {name: find_evaluation(store, name) for name in against},
        without_evaluation,
        without_certificate,
        base,
    )
    with tempfile.TemporaryDirectory(prefix="tirflow-publish-") as scratch:
        files = collect(store, ref, request, Path(scratch))
        if folder is None:
            kind: RepoType = "dataset" if ref.kind in DATASETS else "model"
            sys.stdout.write(f"{upload(files, repo, kind, hub_endpoint(), token, private)}\n")
            return 0
        for name, path in files.items():  # copies, so that edits do not change the store
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    sys.stdout.write(f"{folder}: {len(files)} files, nothing was sent; README.md is the card\n")
    return 0
