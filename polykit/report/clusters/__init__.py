"""What a run of `clusters` shows: the atlas of its units."""
