"""`tirflow recipes`: the list of recipes, or one recipe with all its values."""

import sys

from rich.console import Console
from rich.table import Table

from tasks.recipes import RECIPES_DIR, load_recipe


def tell(name: str) -> int:
    """Print the list, or the recipe of that name or file as JSON. Raises ValueError for a mistake in it."""
    if name:
        sys.stdout.write(load_recipe(name).model_dump_json(indent=2) + "\n")
        return 0
    table = Table(box=None, padding=(0, 1), show_header=False)
    for path in sorted(RECIPES_DIR.glob("*.toml")):
        table.add_row(path.stem, load_recipe(path.stem).description)
    Console().print(table)
    return 0
