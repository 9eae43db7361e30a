"""`hf-ddistill sample --show`: which position came when, and how sure the model was of it."""
