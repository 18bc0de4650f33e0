"""The initial weights of a model: random, ImageNet's, or from a file."""
