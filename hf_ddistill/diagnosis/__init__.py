"""ECD's questions about a model."""
