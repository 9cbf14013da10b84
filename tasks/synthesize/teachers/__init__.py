"""Who writes traces: the embedded program, a model behind an endpoint, a model in this process."""
