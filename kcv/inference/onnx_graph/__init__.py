"""ONNX files of any origin, read and bounded before onnxruntime opens them; without onnx, Keras and torch.

`wire` reads protocol buffers, `messages` says what they may hold, `reading` makes a graph of them, and `bounds` works
out what it takes, by the rules of `elementwise`, `moving` and `windows`, which read their `calls`.
"""

from kcv.inference.onnx_graph.bounds import check
from kcv.inference.onnx_graph.reading import FLOAT, UINT8, Graph, Node, Value, Weight, read_graph
from kcv.inference.onnx_graph.wire import Damaged

__all__ = ["FLOAT", "UINT8", "Damaged", "Graph", "Node", "Value", "Weight", "check", "read_graph"]
