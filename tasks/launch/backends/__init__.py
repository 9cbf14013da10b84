"""Where stages run: a subprocess under a guard, or a container."""
