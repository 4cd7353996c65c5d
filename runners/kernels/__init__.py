"""Faster layers and batches: same results, in the form that suits the CPU or GPU."""

from __future__ import annotations


class CompileError(RuntimeError):
    """Error of a kernel that cannot be compiled on this machine."""
