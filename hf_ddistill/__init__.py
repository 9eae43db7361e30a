"""Distillation of discrete diffusion models for the Hugging Face world."""
