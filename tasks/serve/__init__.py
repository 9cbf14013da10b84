"""A checkpoint at work for people and programs: asked in the terminal, served over HTTP. No stage."""
