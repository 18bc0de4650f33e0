"""Reads ONNX files of any origin and bounds their cost before onnxruntime opens them; without onnx, Keras and torch.

`wire` reads protocol buffers, `messages` defines what they may contain, `reading` builds a graph from them, and
`bounds` computes its cost by the `rules` of the operators, which read `calls`.
"""

from kcv.inference.onnx_graph.bounds import check
from kcv.inference.onnx_graph.reading import FLOAT, UINT8, Graph, Node, Value, Weight, read_graph
from kcv.inference.onnx_graph.wire import Damaged

__all__ = ["FLOAT", "UINT8", "Damaged", "Graph", "Node", "Value", "Weight", "check", "read_graph"]
