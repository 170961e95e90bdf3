"""One analysis, carried out at every point of a grid of its options."""
