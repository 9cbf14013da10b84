"""A server for `generation.pool.addresses`, started by hand on a host that samples for stages elsewhere.

    export TIRFLOW_POOL_TOKEN=...
    python -m tasks.shared.generation.pool.serve RECIPE CHECKPOINT --host 10.0.0.5 --port 8000

It takes its limits from the recipe and its first weights from the checkpoint; every stage that uses it pushes others.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

import torch
from pydantic import ValidationError

from tasks.shared.config import GenerationConfig, ModelConfig, Section
from tasks.shared.config.recipe_files import find_recipe, first_mistake, read_recipe
from tasks.shared.contract.environment import pool_token, server_environment
from tasks.shared.generation.pool.server import NCCL, server_command
from tasks.shared.generation.vllm_options import CPU_CACHE_GIB, engine_options


class ServedRecipe(Section, extra="ignore"):
    """What a server takes of a recipe."""

    model: ModelConfig
    generation: GenerationConfig = GenerationConfig()


def main(arguments: list[str]) -> NoReturn:
    """Replace this process by the server."""
    parser = argparse.ArgumentParser(prog="python -m tasks.shared.generation.pool.serve")
    parser.add_argument("recipe", help="a recipe's name or file")
    parser.add_argument("checkpoint", type=Path, help="a save_pretrained directory")
    parser.add_argument(
        "--host", default="127.0.0.1", help="an address of this host: loopback, or a private one"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs of it")
    parser.add_argument("--quantization", choices=["fp8"])
    parser.add_argument("--cores", default="", help="on the CPU those of each worker, as in 0-3|4-7")
    given = parser.parse_args(arguments)
    if not pool_token():
        parser.error("TIRFLOW_POOL_TOKEN is not set: export the secret that the stages use too")
    try:
        path = find_recipe(given.recipe)
        recipe = ServedRecipe.model_validate(read_recipe(path))
        options = engine_options(recipe.generation, recipe.model, given.checkpoint.resolve())
    except ValidationError as error:
        parser.error(f"{path}: {first_mistake(error, ServedRecipe)}")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    options |= {"tensor_parallel_size": given.tensor_parallel, "quantization": given.quantization}
    options["weight_transfer_config"] = NCCL if torch.cuda.is_available() else None
    environment = server_environment(CPU_CACHE_GIB, pool_token(), "", given.cores)
    command = server_command(options, given.host, given.port)
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
