"""Exports a Keras model to ONNX: the graph, its simplification, the parity check, int8."""
