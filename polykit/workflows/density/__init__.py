"""How dense networks of several widths are: train, prune along a trajectory, compare."""
