"""Keras functional models from images to logits, and their initial weights."""
