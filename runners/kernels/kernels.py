"""Kernels for the operations between matrix products, each in one pass over its rows.

PyTorch needs five to ten operations for each of them, and every operation costs as much for one row as for many: more
than half of a decode step with one token. Numba compiles the kernels without a compiler on the machine, and they are
stored in a folder.

Values are float32 or bfloat16. Kernels compute in float32.
"""

from __future__ import annotations

from functools import cached_property

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.host_cpu import supports_tiles
from runners.kernels.kernel_source import get_decode_attention_source, get_layer_source, get_sequence_attention_source
from runners.kernels.layout import fits_registers
from runners.kernels.parallel import ParallelKernel, get_type_name


class Kernels:
    """Kernels for values of one type.

    A kernel is called with the number of units of work, followed by its arguments. It is compiled on first use.
    `runners.kernels.sources` documents what each kernel computes and its arguments.

    Args:
        dtype: float32 or bfloat16.

    Attributes:
        dtype, compiler: as passed in.
    """

    def __init__(self, dtype: torch.dtype, compiler: Compiler) -> None:
        self.dtype = dtype
        self.compiler = compiler

    @cached_property
    def rms_norm(self) -> ParallelKernel:
        return self._get_kernel("rms_norm")

    @cached_property
    def add_rms_norm(self) -> ParallelKernel:
        return self._get_kernel("add_rms_norm")

    @cached_property
    def add_layer_norm(self) -> ParallelKernel:
        return self._get_kernel("add_layer_norm")

    @cached_property
    def gelu(self) -> ParallelKernel:
        return self._get_kernel("gelu")

    @cached_property
    def gate(self) -> ParallelKernel:
        return self._get_kernel("gate")

    @cached_property
    def rotate(self) -> ParallelKernel:
        return self._get_kernel("rotate")

    @cached_property
    def copy_to_slots(self) -> ParallelKernel:
        return self._get_kernel("copy_to_slots")

    def get_decode_attention(self, size: int, value_size: int, shared: int) -> ParallelKernel:
        """Return the decode attention kernel for a head size; it is compiled on first use.

        Args:
            size: elements of a query and of a key.
            value_size: elements of a value.
            shared: query heads per key head.
        """
        return self.compiler.get_kernel(
            get_decode_attention_source(size, value_size, shared, get_type_name(self.dtype))
        )

    def get_sequence_attention(self, size: int, value_size: int) -> ParallelKernel | None:
        """Return the kernel for attention over whole sequences or prefill chunks.

        It is compiled on first use. PyTorch's attention is made for long sequences, and needs one call for each. This
        kernel computes all of them as matrix products of tiles: a unit is one head of one sequence. Its arguments:

        - addresses of queries, keys, values and outputs;
        - address of `SEQUENCE_FIELDS` integers for each sequence;
        - number of heads, and query heads per key head;
        - distances between tokens, in elements, in queries, keys, values and outputs;
        - window of attention in tokens, 0 if there is no limit;
        - scale of the scores.

        Returns:
            None if the CPU lacks instructions, or heads do not fill whole registers.
        """
        if not supports_tiles() or not fits_registers(size, value_size):
            return None
        return self.compiler.get_kernel(get_sequence_attention_source(size, value_size, get_type_name(self.dtype)))

    @staticmethod
    def supports(dtype: torch.dtype) -> bool:
        """Return whether there are kernels for values of a type."""
        return dtype in (torch.float32, torch.bfloat16)

    def _get_kernel(self, name: str) -> ParallelKernel:
        return self.compiler.get_kernel(get_layer_source(name, get_type_name(self.dtype)))
