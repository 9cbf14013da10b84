"""Fills the checkpoint artifact with the base model: from the hub at a pinned revision, from a directory, or made here.

Reports in one line what is wrong with it, before a later stage uses it. Writes its generation_config, and the date in
its chat template, as every later stage needs them.
"""

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.prepare.template_date import fix_date
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.shared.config import ModelConfig
from tasks.shared.learning.checkpoint_files import PICKLES, require_files, require_sound_weights
from tasks.shared.learning.checkpoints import clean_generation_config, load_tokenizer, open_model
from tasks.shared.rows.raw import COMMIT
from tasks.shared.traces.turns import stop_ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "*.model"]


def place_base_model(config: ModelConfig, seed: int, directory: Path) -> int:
    """Fill `directory` with a `save_pretrained` checkpoint; returns the number of parameters.

    Raises ValueError: an unpinned revision, an unreachable hub, or an unusable checkpoint, see `checkpoint_files` and
    `load_tokenizer`.
    """
    if config.source == "tiny":
        make_tiny_checkpoint(config.tiny, seed, directory)
    elif config.source == "path":
        _copy_local(Path(config.path), directory)
    else:
        _download(config.id, config.revision, directory)
    fix_date(directory, config.template_date)
    tokenizer = load_tokenizer(directory)
    open_model(directory, config.model_copy(update={"attention": "eager"}), device="meta")
    _write_generation_config(directory, tokenizer)
    require_sound_weights(directory)
    return count_parameters(directory)


def _copy_local(source: Path, directory: Path) -> None:
    require_files(source)
    for path in sorted(source.iterdir()):
        if path.is_file() and not any(path.match(pattern) for pattern in PICKLES):
            # follows links: hub caches consist of them, and an artifact holds none
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
        # the hub's client raises these for no network, a missing model and a missing revision
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"model.id '{hub_id}' at {revision[:12]}: cannot download ({first_line}); "
            "check the network and id, or use model.source = 'path'"
        ) from error
    _copy_local(Path(snapshot), directory)


def count_parameters(directory: Path) -> int:
    """Number of values in the safetensors files of `directory`, read from their headers (tied ones once)."""
    from safetensors import safe_open

    total = 0
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            # `keys`, because it is no mapping and has no __iter__
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def _write_generation_config(directory: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Write a generation_config that can be saved again, and that names every id which ends a turn."""
    from transformers import GenerationConfig

    found = GenerationConfig()
    if (directory / "generation_config.json").is_file():
        try:
            found = GenerationConfig.from_pretrained(directory)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{directory / 'generation_config.json'}: cannot be read ({str(error).splitlines()[0]}); remove it"
            ) from error
    ends = stop_ids_of(directory, tokenizer)
    if not all(isinstance(end, int) for end in ends):
        raise ValueError(
            f"{directory}: eos_token_id is not an id or a list of ids in a configuration; correct it"
        )
    clean_generation_config(found, ends).save_pretrained(directory)
