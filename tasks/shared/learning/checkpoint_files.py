"""Checks a checkpoint's files before use: each mistake is a ValueError of one line.

Only safetensors are accepted, because opening a pickle can run code.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
INDEX = "model.safetensors.index.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
MOST_SHARDS = 10_000  # a name may claim any number
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def require_files(checkpoint: Path) -> None:
    """ValueError unless `checkpoint` holds a configuration and all of its weights in complete files."""
    if (checkpoint / "adapter_config.json").is_file():
        base = read_object(checkpoint / "adapter_config.json").get("base_model_name_or_path") or "not named"
        raise ValueError(
            f"{checkpoint}: an adapter without its base ({base}); merge it into that (PEFT's merge_and_unload), save "
            "both with save_pretrained, and give that directory"
        )
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{checkpoint}: no config.json there; give a save_pretrained directory")
    refuse_pointers(checkpoint)
    if not any(checkpoint.glob("*.safetensors")):
        pickles = sorted(path for pattern in PICKLES for path in checkpoint.glob(pattern))
        if pickles:
            raise ValueError(
                f"{pickles[0]}: weights in a pickle, which can run code when opened; save them as safetensors, "
                "with save_pretrained(safe_serialization=True)"
            )
        raise ValueError(f"{checkpoint}: no *.safetensors; give a complete save_pretrained directory")
    _require_shards(checkpoint)


def refuse_pointers(checkpoint: Path) -> None:
    """ValueError for a Git LFS pointer in place of a file."""
    for path in sorted(path for path in checkpoint.iterdir() if path.is_file()):
        with path.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ValueError(
                    f"{path}: a Git LFS pointer, not the file; run 'git lfs pull' in {checkpoint}"
                )


def require_sound_weights(checkpoint: Path) -> None:
    """ValueError for a weight that is not finite, or a tied head unlike its embedding; reads every file."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).get_text_config()
    tied: dict[str, torch.Tensor] = {}
    for path, name, tensor in _tensors(checkpoint):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: '{name}' holds NaN or infinite weights; use an undamaged checkpoint")
        if config.tie_word_embeddings and name.endswith((EMBEDDING, HEAD)):
            tied[HEAD if name.endswith(HEAD) else EMBEDDING] = tensor
    if len(tied) == 2 and not torch.equal(tied[EMBEDDING], tied[HEAD]):
        raise ValueError(head_differs(checkpoint))


def has_chat_template(checkpoint: Path) -> bool:
    """Whether a tokenizer in `checkpoint` has a chat template."""
    if any(checkpoint.glob("*.jinja")):
        return True
    path = checkpoint / "tokenizer_config.json"
    return path.is_file() and bool(read_object(path).get("chat_template"))


def head_differs(checkpoint: Path) -> str:
    """The message for a tied head that differs from its embedding: nothing says which of the two to use."""
    return (
        f"{checkpoint}: config.json ties the output head to the embedding (tie_word_embeddings), but their weights "
        "differ; set it to false there, or take lm_head.weight out of the file"
    )


def _require_shards(checkpoint: Path) -> None:
    if (checkpoint / "model.safetensors").is_file():
        return
    expected: set[str] = set()
    if (checkpoint / INDEX).is_file():
        shard_of = read_object(checkpoint / INDEX).get("weight_map")
        expected = set(map(str, shard_of.values())) if isinstance(shard_of, dict) else set()
    for path in checkpoint.glob("*.safetensors"):
        if match := SHARD.fullmatch(path.name):
            width, count = len(match[1]), min(int(match[2]), MOST_SHARDS)
            expected |= {f"model-{i:0{width}}-of-{match[2]}.safetensors" for i in range(1, count + 1)}
    missing = sorted(name for name in expected if not (checkpoint / name).is_file())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"{checkpoint}: shard {missing[0]} is missing{more}; download the whole checkpoint again"
        )
    if expected and not (checkpoint / INDEX).is_file():
        raise ValueError(
            f"{checkpoint}: {INDEX} is missing, which lists the weights of each shard; copy it there too"
        )


def _tensors(checkpoint: Path) -> "Iterator[tuple[Path, str, torch.Tensor]]":
    """Every tensor of the weights, one at a time."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping, it has no __iter__
                    yield path, name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path}: weights are damaged ({error}); download the file again") from error


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object. ValueError, naming the file, if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); download the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object; download the file again")
    return content
