"""Loads a source by name into labelled, split images at a model's size, and makes batches of them."""
