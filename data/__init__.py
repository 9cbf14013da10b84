"""Problem families of the tiny world, and the registry of public data sets by hub id."""
