"""Classifiers loaded from .keras and .onnx files: logits, probabilities, prediction rows."""
