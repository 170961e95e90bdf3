"""What a run of `visualize` shows."""
