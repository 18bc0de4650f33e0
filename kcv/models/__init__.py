"""Keras functional graphs, images in and logits out, and the weights that they start from."""
