"""What the trainers call between their steps."""
