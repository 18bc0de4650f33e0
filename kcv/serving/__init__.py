"""A model as a service over HTTP: limits, a queue, workers, and the routes that speak to them.

request -> guard (host, token, limits) -> route -> queue -> worker (decode, resize, run) -> answer

Starlette and uvicorn serve; an ONNX model is served without Keras and torch (decision 022).
"""
