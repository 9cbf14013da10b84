"""A pool of vLLM servers behind the `Generator` protocol: starts and supervises them, asks them, sends weights."""
