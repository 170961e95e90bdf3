"""Where samples come from and how they are kept: any data, splits, shards, pictures."""
