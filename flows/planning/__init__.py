"""Before anything runs: what a recipe would do, how much memory and how many seconds it takes."""
