"""What a model calls while it reasons."""
