"""Make the edge model small: int8 item table, statically quantised int8 encoder."""

from tierline_cloud.compression.static_int8 import quantize_encoder

__all__ = ["quantize_encoder"]
