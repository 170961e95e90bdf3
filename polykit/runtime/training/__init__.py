"""How networks train: one, or many together; and how their weights are sampled."""
