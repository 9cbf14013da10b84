"""Checkpoints, adapters and datasets on a hub, each with a card that is written from its artifacts."""
