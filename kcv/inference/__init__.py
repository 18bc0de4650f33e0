"""Classifiers, from .keras and .onnx files: logits, probabilities, rows of predictions."""
