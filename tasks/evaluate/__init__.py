"""evaluate: k samples a problem, with intervals and behaviour."""
