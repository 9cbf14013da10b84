"""Plans before anything runs: the stages that a recipe would run, its memory and its seconds."""
