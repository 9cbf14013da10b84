"""A model behind an OpenAI-compatible endpoint: client, limits, and the log of its responses."""
