"""Running a stage from outside of it: backends, the guard that leaves nothing behind, what counts as the same work."""
