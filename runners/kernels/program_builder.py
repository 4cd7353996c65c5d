"""Helpers for programs of all kinds of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from runners.kernels.fused import LARGE
from runners.kernels.int8 import VnniInt8Linear
from runners.kernels.kernels import Kernels
from runners.kernels.packed import TiledLinear, round_up_rows
from runners.kernels.program import KernelCall, Scratch, ValueFromRows

#: A part of a program.
Part = KernelCall | Callable[[int, Any], None]


class ProgramBuilder:
    """Builder of program parts and their memory.

    Args:
        kernels: kernels for values of the model's type.
        rows: largest number of rows; a multiple of 8.
    """

    def __init__(self, kernels: Kernels, rows: int) -> None:
        self._dtype, self._scratch = kernels.dtype, Scratch(rows)

    def get_rows(self, name: str, width: int) -> torch.Tensor:
        """Return memory of shape (rows, width); the same arguments return the same tensor."""
        return self._scratch.get_rows(name, width, self._dtype)

    def build_linear(self, layer: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> list[Part]:
        """Return the parts that compute a linear layer, by kernels if possible."""
        calls = build_linear_calls(layer, inputs, outputs, self._scratch)
        return [self.build_python_call(layer, inputs, outputs)] if calls is None else list(calls)

    @staticmethod
    def build_python_call(module: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> Part:
        """Return a part that calls a module from Python."""
        return partial(_compute_rows, module, inputs, outputs)

    @staticmethod
    def build_large_flag(width: int) -> ValueFromRows:
        """Return an argument that is 1 if rows of this width are enough work for all threads."""
        return ValueFromRows(("large", width), lambda rows: rows * width >= LARGE)


def build_linear_calls(
    layer: Any, inputs: torch.Tensor, outputs: torch.Tensor, scratch: Scratch
) -> list[KernelCall] | None:
    """Return the calls that compute a linear layer, or None if only Python can compute it.

    Args:
        inputs, outputs: contiguous, shape (rows, size), with as many rows as the scratch has.
        scratch: memory for intermediate results of the calls.
    """
    if inputs.dtype != torch.float32:
        return None
    addresses = inputs.data_ptr(), outputs.data_ptr()
    if isinstance(layer, TiledLinear):
        return layer.build_calls(*addresses)
    # Not for `PreciseInt8Linear`, which computes its inputs in two parts.
    return layer.build_calls(*addresses, scratch) if type(layer) is VnniInt8Linear else None


Forwards = dict[nn.Module, Callable[..., torch.Tensor]]


def build_forwards(layers: Sequence[Any], first: Callable[..., Any], later: Callable[..., Any]) -> Forwards:
    """Return a new `forward` for each layer, the first of which computes all layers.

    Args:
        first: replaces the first layer's `forward`; its first argument is the layer's own `forward`.
        later: replaces the other layers' `forward`; likewise.
    """
    return {layer: partial(later if number else first, layer.forward) for number, layer in enumerate(layers)}


def install_if_equivalent(forwards: Forwards, compare: Callable[[], None]) -> None:
    """Install new `forward` functions, and remove them if the comparison raises.

    Raises:
        Exception: error of the comparison.
    """
    try:
        for layer, forward in forwards.items():
            setattr(layer, "forward", forward)  # noqa: B010  # `forward` is not a method any more
        compare()
    except BaseException:
        for layer in forwards:
            vars(layer).pop("forward", None)
        raise


def _compute_rows(module: Any, inputs: torch.Tensor, outputs: torch.Tensor, rows: int, _: Any) -> None:
    # Includes following rows of the memory, so that the layer need not pad its input.
    rounded = min(round_up_rows(rows), len(inputs))
    outputs[:rows] = module.forward(inputs[None, :rounded])[0, :rows]
