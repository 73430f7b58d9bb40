"""What the kernels raise: one family of errors, each a sentence that says what to do."""

from __future__ import annotations


class KernelError(ValueError):
    """An operation was asked for with arguments it cannot answer; nothing was computed."""


class IndexOutOfRange(KernelError):
    """An id points outside its table."""


class BadOffsets(KernelError):
    """Bag offsets do not describe consecutive bags over the given ids."""


class BackEndMissing(KernelError):
    """The back end that was asked for cannot run here."""
