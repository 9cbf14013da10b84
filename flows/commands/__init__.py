"""The command `tirflow`, a module for each group of subcommands."""
