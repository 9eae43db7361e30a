"""Encoder-decoder networks of transformers that denoise a canvas behind a prompt."""
