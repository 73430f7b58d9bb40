"""CUDA kernels: intrinsics, rows, selection; how they are built without a GPU and launched."""
