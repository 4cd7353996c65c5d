"""The same results in less time: layers and batches in the form that suits the processor they are computed on."""

from __future__ import annotations


class CompileError(RuntimeError):
    """A kernel cannot be compiled here."""
