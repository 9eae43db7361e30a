"""Several students that share a task, as one model."""
