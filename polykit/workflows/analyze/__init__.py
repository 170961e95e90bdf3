"""The main job: train, measure, prune, measure, retrain, measure."""
