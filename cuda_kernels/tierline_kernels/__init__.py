"""Embedding look-up, bags, top-k and fused retrieval: reference, CPU and CUDA, one meaning."""

from tierline_kernels.errors import BackEndMissing, BadOffsets, IndexOutOfRange, KernelError
from tierline_kernels.layout import RowwiseInt8, dequantize_rows, quantize_rows
from tierline_kernels.operations import (
    TopK,
    default_backend,
    dot_topk,
    embedding_bag,
    embedding_lookup,
    topk,
    warm_up,
)

__all__ = [
    "BackEndMissing",
    "BadOffsets",
    "IndexOutOfRange",
    "KernelError",
    "RowwiseInt8",
    "TopK",
    "default_backend",
    "dequantize_rows",
    "dot_topk",
    "embedding_bag",
    "embedding_lookup",
    "quantize_rows",
    "topk",
    "warm_up",
]
