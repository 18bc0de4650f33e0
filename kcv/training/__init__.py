"""Training: from a configuration to a run folder with a model in it."""
