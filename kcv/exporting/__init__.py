"""A Keras model as an ONNX file: the graph, its simplification, the parity gate, int8."""
