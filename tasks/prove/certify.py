"""Write a score and everything it follows from into one file that others can check: `tirflow certify EVALUATION`."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from tasks.prove.archive import pack
from tasks.prove.evidence import CERTIFICATE_FILE, FORMAT, README_FILE, REPORT_FILE, STORE, WHOLE, Certificate
from tasks.prove.facts import facts, report_html
from tasks.shared.artifacts import ArtifactRef, Manifest, Store
from tasks.shared.artifacts.lineage import lineage
from tasks.shared.artifacts.manifest import MANIFEST_NAME, FileEntry, scan

README = """# A certificate of tirflow

It holds every sample of an evaluation and everything the score follows from. tirflow checks it without the model and
without a GPU. The programs in it run only in the sandbox:

    tirflow check {name}

`report.html` opens in a browser. docs/evaluation.md of tirflow describes the content and what the check proves.
"""


def certify(
    store: Store, evaluation: ArtifactRef, name: str, against: dict[str, ArtifactRef], output: Path
) -> str:
    """Write the certificate of `evaluation`, as a tar if `output` ends in .tar, else as a folder. Returns its sha256.

    The report calls the evaluation `name`. `against` has the evaluations to compare with, by name. The sha256 is that
    of `certificate.json`, which covers all other files. Equal artifacts give equal bytes. Raises ValueError if `output`
    exists or an artifact is not an evaluation, and ArtifactError if one is damaged or missing.
    """
    for ref in (evaluation, *against.values()):
        if ref.kind != "evaluation":
            raise ValueError(f"{ref.location}: a {ref.kind}, not an evaluation; see tirflow artifacts ls")
    if name in against:
        raise ValueError(f"'{name}' is compared with itself; name another evaluation")
    if output.exists():
        raise ValueError(f"{output}: exists already; move it away or name another path")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        directory = Path(temporary) / "certificate"
        sha256 = _fill(directory, store, evaluation, name, against, output.name)
        if output.suffix == ".tar":
            pack(directory, output)
        else:
            directory.rename(output)
    return sha256


def _fill(
    directory: Path,
    store: Store,
    evaluation: ArtifactRef,
    name: str,
    against: dict[str, ArtifactRef],
    file_name: str,
) -> str:
    evaluations = {**against, name: evaluation}
    for ref in evaluations.values():
        inputs = store.manifest(ref).provenance.inputs.values()
        for parent, manifest in lineage(store, ref).items():
            if manifest is not None:
                _copy(store, parent, manifest, directory / STORE)
            elif parent in inputs:
                raise ValueError(
                    f"{ref.location}: its {parent.kind} {parent.location} was removed from the store"
                )
    copied = Store(str(directory / STORE))  # the facts are derived from the files that a reader will have
    stated = facts(copied, evaluations, name)
    (directory / REPORT_FILE).write_text(report_html(copied, evaluations), encoding="utf-8")
    (directory / README_FILE).write_text(README.format(name=file_name), encoding="utf-8")
    certificate = Certificate(
        format=FORMAT,
        name=name,
        evaluation=evaluation,
        against=against,
        facts=json.loads(json.dumps(stated)),
        files=every_file(directory),
    )
    content = certificate.model_dump_json(indent=1).encode()
    (directory / CERTIFICATE_FILE).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def every_file(directory: Path) -> tuple[FileEntry, ...]:
    """List size and sha256 of every file of a certificate, except `certificate.json`, which contains this list."""
    return tuple(entry for entry in scan(directory, flush=False) if entry.path != CERTIFICATE_FILE)


def _copy(store: Store, ref: ArtifactRef, manifest: Manifest, into: Path) -> None:
    """Copy the files of an artifact that a certificate holds, and check their bytes."""
    target = into / ref.location
    if target.exists():
        return
    target.mkdir(parents=True)
    (target / MANIFEST_NAME).write_bytes(manifest.to_json())
    if ref.kind not in (*WHOLE, "checkpoint"):
        return
    source = store.fetch(ref)
    for entry in manifest.files:
        if ref.kind in WHOLE or is_beside_weights(entry.path):
            copy = target / entry.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / entry.path, copy)


def is_beside_weights(path: str) -> bool:
    """Whether a file of a checkpoint is configuration or tokenizer: small, and needed to read ids."""
    return "/" not in path and not path.endswith((".safetensors", ".safetensors.index.json"))
