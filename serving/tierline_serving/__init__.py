"""What both runtimes share: HTTP front, micro-batcher, admission, lifecycle, bundle, registry."""
