"""A training run from config to exported weights: check, recipe, start, feed, loop, checkpoints, results."""
