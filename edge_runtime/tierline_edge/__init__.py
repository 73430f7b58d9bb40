"""The edge runtime: a verified ONNX bundle, its tables and its doubt, served from one node."""
