"""The contract between a stage and its launcher: request, result, environment, scratch, guard, code digest."""
