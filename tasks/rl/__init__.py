"""rl: one round of on-policy steps with live code execution."""
