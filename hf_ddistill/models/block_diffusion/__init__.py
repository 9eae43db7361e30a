"""A causal language model as a block diffusion model."""
