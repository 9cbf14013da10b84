"""Stage `prepare`: base model and problem sets, pinned, checked and kept apart from evaluation."""
