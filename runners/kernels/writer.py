"""What programs of all kinds of models are written down with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from runners.kernels.fused import LARGE
from runners.kernels.kernels import Kernels
from runners.kernels.linear_calls import LinearCalls
from runners.kernels.packed import round_up_rows
from runners.kernels.program import KernelCall, OfRows, Scratch

#: A part of a program.
Part = KernelCall | Callable[[int, Any], None]


class Writer:
    """Memory for so many rows, and what computes with it.

    Args:
        kernels: for numbers of the model's type.
        rows: at most; a multiple of 8.
    """

    def __init__(self, kernels: Kernels, rows: int) -> None:
        self._dtype, self._scratch = kernels.dtype, Scratch(rows)
        self._linear = LinearCalls(kernels.compiler, self._scratch)

    def rows(self, name: str, width: int) -> torch.Tensor:
        """Shape (rows, width); the same for all who ask for the same."""
        return self._scratch.rows_of(name, width, self._dtype)

    def linear(self, layer: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> list[Part]:
        """A linear layer, by kernels where that can be done."""
        calls = self._linear.layer_calls(layer, inputs, outputs)
        return [self.python(layer, inputs, outputs)] if calls is None else list(calls)

    @staticmethod
    def python(module: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> Part:
        """What a module computes of each row."""
        return partial(_compute_rows, module, inputs, outputs)

    @staticmethod
    def large(width: int) -> OfRows:
        """Whether rows of so many numbers are worth to be shared by threads."""
        return OfRows(("large", width), lambda rows: rows * width >= LARGE)


Forwards = dict[nn.Module, Callable[..., torch.Tensor]]


def one_for_all(layers: Sequence[Any], first: Callable[..., Any], behind: Callable[..., Any]) -> Forwards:
    """A new `forward` for each layer: the first computes all of them, and those behind it pass on what it gives.

    Both are given the layer's own `forward` first.
    """
    return {layer: partial(behind if number else first, layer.forward) for number, layer in enumerate(layers)}


def install_if_equivalent(forwards: Forwards, compare: Callable[[], None]) -> None:
    """Give layers another `forward`, and take it back if the comparison raises.

    Raises:
        Exception: what the comparison raised.
    """
    try:
        for layer, forward in forwards.items():
            setattr(layer, "forward", forward)  # noqa: B010  # which is no method any more
        compare()
    except BaseException:
        for layer in forwards:
            vars(layer).pop("forward", None)
        raise


def _compute_rows(module: Any, inputs: torch.Tensor, outputs: torch.Tensor, rows: int, _: Any) -> None:
    # With what stands behind them, up to a number of rows that a layer needs not fill up itself.
    usual = min(round_up_rows(rows), len(inputs))
    outputs[:rows] = module.forward(inputs[None, :usual])[0, :rows]
