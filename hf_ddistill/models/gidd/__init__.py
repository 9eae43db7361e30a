"""The network of GIDD's scaled-up models."""
