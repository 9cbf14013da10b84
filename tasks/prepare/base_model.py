"""Bring the base model into the checkpoint artifact: from the hub at a pinned revision, from a directory, or made here.

Only safetensors are taken: a pickle can run code when it is opened.
"""

import json
import re
import shutil
from pathlib import Path

from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.shared.config import ModelConfig

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "*.model"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def place_base_model(config: ModelConfig, seed: int, directory: Path) -> int:
    """Fill `directory` with a `save_pretrained` checkpoint; the number of parameters.

    Raises:
        ValueError: an unpinned revision, an unreachable hub, no safetensors, a pickle, or no chat template.
    """
    if config.source == "tiny":
        num_parameters = make_tiny_checkpoint(config.tiny, seed, directory)
    elif config.source == "path":
        _copy_local(Path(config.path), directory)
        num_parameters = count_parameters(directory)
    else:
        _download(config.id, config.revision, directory)
        num_parameters = count_parameters(directory)
    _check_chat_template(directory, config)
    return num_parameters


def _copy_local(source: Path, directory: Path) -> None:
    if not (source / "config.json").is_file():
        raise ValueError(f"model {source}: no config.json there; give a save_pretrained directory")
    _check_weights(source)
    for path in sorted(source.iterdir()):
        if path.is_file() and not any(path.match(pattern) for pattern in PICKLES):
            # follows links, since hub caches are made of them and an artifact holds none
            shutil.copyfile(path, directory / path.name)


def _download(hub_id: str, revision: str, directory: Path) -> None:
    if not COMMIT.fullmatch(revision):
        raise ValueError(
            f"model.revision '{revision}' is not a commit hash of 40 hex digits; "
            "branches and tags move, pin the commit that the model's history page shows"
        )
    import huggingface_hub

    try:
        snapshot = huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=HUB_FILES)
    except (OSError, ValueError) as error:
        # the hub's client reports no network, a missing model and a missing revision by OSErrors and ValueErrors
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"model.id '{hub_id}' at {revision[:12]}: cannot download ({first_line}); "
            "check the network and id, or use model.source = 'path'"
        ) from error
    _copy_local(Path(snapshot), directory)


def _check_weights(directory: Path) -> None:
    if any(directory.glob("*.safetensors")):
        return
    pickles = sorted(path for pattern in PICKLES for path in directory.glob(pattern))
    if pickles:
        raise ValueError(
            f"{pickles[0]}: weights in a pickle, which can run code when opened; "
            "save them with save_pretrained(safe_serialization=True)"
        )
    raise ValueError(f"{directory}: no *.safetensors; give a complete save_pretrained directory")


def count_parameters(directory: Path) -> int:
    """Number of values in the safetensors files of `directory`, read from their headers (tied ones once)."""
    from safetensors import safe_open

    total = 0
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping, it has no __iter__
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _check_chat_template(directory: Path, config: ModelConfig) -> None:
    if any(directory.glob("*.jinja")):
        return
    path = directory / "tokenizer_config.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("chat_template"):
        return
    raise ValueError(
        f"model {config.id or config.path}: its tokenizer has no chat template; "
        "use an instruction-tuned model or save a chat_template with the tokenizer"
    )
