"""Ask a checkpoint in the terminal, or serve it over HTTP, with code that runs while it answers. Not a stage."""
