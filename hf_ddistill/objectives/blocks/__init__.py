"""What block diffusion models are trained on: one method, one file."""
