"""Ground truth by construction: the pieces of the dataset `feature-model`."""
