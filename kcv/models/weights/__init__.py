"""Weights that a model starts from: none, ImageNet's, or those in a file."""
