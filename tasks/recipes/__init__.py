"""The stages and the recipes (TOML under `flows/recipes/`) that configure all of them: above the stages, below launch.

Every mistake in a recipe is a one-line `ValueError` that names file, key and remedy, before anything starts. A stage is
handed only the sections that it depends on (`Recipe.for_stage`), so that a changed RL rate does not rerun SFT.
"""

from tasks.recipes.reading import key_by_key, load_recipe, resolve, resolve_recorded, round_recipe
from tasks.recipes.recipe import STAGES, Recipe, find_stage, stage_of
from tasks.shared.config.recipe_files import RECIPES_DIR

__all__ = [
    "RECIPES_DIR",
    "STAGES",
    "Recipe",
    "find_stage",
    "key_by_key",
    "load_recipe",
    "resolve",
    "resolve_recorded",
    "round_recipe",
    "stage_of",
]
