"""A drill on secrets in images: canaries in the environment of their build, searched for in every layer.

make test-containers LONG=1     # with a Docker engine and the images of `make images`
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import docker
import pytest

from images.build import ROLES, packages_name
from tasks.shared.contract.environment import SINK_VARIABLES, STORE_SECRETS
from tests.drills.index_server import serve_wheels
from tests.drills.test_secrets import OTHERS

pytestmark = [pytest.mark.containers, pytest.mark.long, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
MARK = "canary-image-6d2f"  # in every canary
VARIABLES = (*STORE_SECRETS, *SINK_VARIABLES, *OTHERS, "TIRFLOW_SANDBOX_TOKEN_FILE", "POSTGRES_PASSWORD")
BASE, PREFIX = "tirflow-base", "tirflow-drill-"
LOCKS = ROOT / "images" / "locks"
SOURCE = "tasks/shared/sandbox/__init__.py"  # of which every image has a copy
PUBLIC = {"pypi.org", "files.pythonhosted.org", "deb.debian.org", "security.debian.org"}  # packages name them
CHUNK = 8 << 20


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    """The engine. Images that the drill has built are removed."""
    found = docker.from_env()
    try:
        yield found
    finally:
        for name in _names(found, PREFIX):
            found.images.remove(name, force=True)


def test_canaries_in_image_layers(
    tmp_path: Path, engine: docker.DockerClient, saw: Callable[[str], None]
) -> None:
    """Canaries in the build's environment and a package index's password: in no image layer or configuration."""
    packages = {
        role: packages_name(LOCKS / made.lock, BASE, "cpu", "tirflow-") for role, made in ROLES.items()
    }
    there = [role for role, name in packages.items() if name in _names(engine, "tirflow-packages:")]
    others = [role for role in there if role != "sandbox"]
    assert "train" in others, "make images"
    tree = _changed_tree(tmp_path / "tree")
    with serve_wheels(_wheels(tmp_path / "served"), "user", MARK) as index:
        # The sandbox is built anew from an index with a password; the others get new sources on existing packages.
        environment = _environment(tmp_path, index.url)
        _build(tree, ["sandbox"], environment)
        assert any(path.startswith("/files/") for path in index.asked), (
            "pip took the wheels from somewhere else"
        )
        for name in {packages[role] for role in others}:
            engine.images.get(name).tag(f"{PREFIX}packages", name.partition(":")[2])
        _build(tree, others, environment)
        needles = [MARK.encode(), index.host.encode(), *_package_hosts()]
    images = _names(engine, PREFIX)
    found, layers, size = search(images, needles)
    assert found == []
    planted = _plant(tmp_path / "planted", engine)
    assert len(search([planted], [MARK.encode()])[0]) >= 2, "the search sees neither a file nor a variable"
    saw(
        f"{len(VARIABLES) + 2} canaries, {len(needles) - 1} package hosts; images of sandbox, {', '.join(others)}: "
        f"{layers} layers, {size / 1e9:.1f} GB searched; both planted ones found"
    )


def search(images: list[str], needles: list[bytes]) -> tuple[list[str], int, int]:
    """Places of the needles in the images' layers and configurations; layers and bytes that were searched."""
    found, layers, size = [], 0, 0
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
        assert save.stdout is not None
        with tarfile.open(fileobj=save.stdout, mode="r|") as archive:
            for entry in archive:
                stream = archive.extractfile(entry) if entry.isfile() else None
                if stream is not None:
                    found += [f"{needle!r} in {entry.name}" for needle in _in_stream(stream, needles)]
                    layers += entry.name.endswith("/layer.tar") or entry.name.startswith("blobs/")
                    size += entry.size
    assert save.returncode == 0
    return found, layers, size


def _in_stream(stream: IO[bytes], needles: list[bytes]) -> set[bytes]:
    """The needles that occur in a stream."""
    found, overlap, longest = set[bytes](), b"", max(map(len, needles))
    while chunk := stream.read(CHUNK):
        text = overlap + chunk
        found |= {needle for needle in needles if needle in text}
        overlap = text[-longest:]
    return found


def _environment(folder: Path, index: str) -> dict[str, str]:
    """This process's environment with canaries, a home of the drill's own, and `index` as pip's only index."""
    canaries = {name: f"{MARK}-{name}" for name in VARIABLES}
    own = {
        "PIP_INDEX_URL": index,
        "PIP_CONFIG_FILE": os.devnull,
        "HTTPS_PROXY": f"http://user:{MARK}@127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
        "TIRFLOW_HOME": str(folder / "home"),
        "PYTHONPATH": str(folder / "tree"),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return kept | canaries | own


def _wheels(folder: Path) -> Path:
    """A folder with the wheels of the sandbox's lock, from this machine's package index."""
    lock = ROOT / "images" / "locks" / "sandbox.txt"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "-r", str(lock)], check=True)
    return folder


def _changed_tree(copy: Path) -> Path:
    """A copy of what images are built from, with a change in every role's sources: no layer of them is reused."""
    for name in ("tasks", "data", "flows", "images", ".git"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.yaml", ".git"):  # of a work tree that git has added, .git is a file
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    with (copy / SOURCE).open("a") as source:
        source.write(f"# of a drill {hashlib.sha256(str(copy).encode()).hexdigest()}\n")
    return copy


def _build(tree: Path, roles: list[str], environment: dict[str, str]) -> None:
    arguments = [*roles, "--base-image", BASE, "--prefix", PREFIX]
    subprocess.run(
        [sys.executable, str(tree / "images" / "build.py"), *arguments], env=environment, check=True
    )


def _plant(folder: Path, engine: docker.DockerClient) -> str:
    """An image with a canary in a file and one in its configuration."""
    folder.mkdir()
    (folder / "planted").write_text(MARK)
    recipe = f"FROM {PREFIX}sandbox\nCOPY planted /tmp/planted\nENV PLANTED={MARK}\n"
    (folder / "Dockerfile").write_text(recipe)
    engine.images.build(path=str(folder), tag=f"{PREFIX}planted", network_mode="none", rm=True)
    return f"{PREFIX}planted:latest"


def _names(engine: docker.DockerClient, prefix: str) -> list[str]:
    """The names of images that begin so."""
    return sorted(tag for image in engine.images.list() for tag in image.tags if tag.startswith(prefix))


def _package_hosts() -> list[bytes]:
    """The hosts that pip and apt of this machine use, except the public ones."""
    pip = [sys.executable, "-m", "pip", "config", "list"]
    apt = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    settings = "".join(
        subprocess.run(ask, capture_output=True, text=True, check=True).stdout for ask in (pip, apt)
    )
    hosts = {urlsplit(word).hostname for word in re.split(r"[\s'=]+", settings) if "://" in word}
    return [host.encode() for host in hosts if host and host not in PUBLIC]
