"""A masked language model of transformers with a noise input."""
