"""An OpenAI-compatible endpoint as a client sees it: paced, budgeted, its responses kept."""
