"""Merge linear layers that have the same input into one larger layer.

The query, key and value projections of attention are such layers, and the gate and up projections of a feed-forward.
One large matrix is read from memory faster than three small ones, with one kernel call in place of three: 16 rows of
SmolLM2 on two cores of an Intel Xeon take 14 % less time in float32, and 45 % less in bfloat16.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import torch
from torch import nn

from runners.kernels.linear import create_linear, find_linear_layers, get_weight_and_bias

#: A module, and the names of its layers that have the same input.
Group = tuple[nn.Module, tuple[str, ...]]


class MergedLinear(nn.Module):
    """Linear layer with the outputs of several layers, one after the other.

    Attributes:
        linear: the merged layer.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, biases = zip(*map(get_weight_and_bias, layers), strict=True)
        self._sizes = [len(weight) for weight in weights]
        merged = None
        if any(bias is not None for bias in biases):
            pairs = zip(weights, biases, strict=True)
            merged = torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in pairs])
        self.linear = create_linear(torch.cat(weights), merged)
        self._last_outputs = _LastOutputs()

    def compute_part(self, number: int, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs of one of the layers.

        The first call for an input computes the outputs of all layers.
        """
        last = self._last_outputs
        if last.inputs is None or last.inputs() is not inputs or last.outputs[number] is None:
            last.outputs = list(self.linear(inputs).split(self._sizes, -1))
            last.inputs = ref(inputs)
        outputs, last.outputs[number] = last.outputs[number], None
        assert outputs is not None
        return outputs


class _LastOutputs(threading.local):
    """Last input of a thread, and its outputs that are not returned yet."""

    def __init__(self) -> None:
        self.inputs: ref[torch.Tensor] | None = None
        self.outputs: list[torch.Tensor | None] = []


class LinearPart(nn.Module):
    """Replacement for one of the layers that were merged.

    Attributes:
        weight: shape (out_features, in_features), on the meta device: other code reads only its shape and type.
        bias: shape (out_features,), on the meta device, or None.
        merged: the merged layer.
        number: index of the replaced layer in it.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, merged: MergedLinear, number: int, layer: nn.Module) -> None:
        super().__init__()
        self.merged = merged
        self.number = number
        weight, bias = get_weight_and_bias(layer)
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", torch.empty_like(weight, device="meta"), persistent=False)
        self.register_buffer("bias", None if bias is None else torch.empty_like(bias, device="meta"), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map shape (..., in_features) to (..., out_features)."""
        return self.merged.compute_part(self.number, inputs)


def find_merged_pair(first: nn.Module, second: nn.Module) -> nn.Module | None:
    """Return the layer that two layers were merged into, or None if it has other outputs too.

    Both must have the same number of outputs. The first one's outputs come first.
    """
    if not isinstance(first, LinearPart) or not isinstance(second, LinearPart) or first.merged is not second.merged:
        return None
    if not first.number < second.number or first.out_features != second.out_features:
        return None
    linear: Any = first.merged.linear
    return linear if linear.out_features == 2 * first.out_features else None


def find_shared_inputs(model: nn.Module, compute: Callable[[], torch.Tensor]) -> tuple[list[Group], torch.Tensor]:
    """Run a model and find its linear layers that have the same input.

    Args:
        compute: runs the model.

    Returns:
        The groups of layers, and what `compute` returned.
    """
    inputs_of: defaultdict[nn.Module, list[torch.Tensor]] = defaultdict(list)
    sums: defaultdict[nn.Module, list[float]] = defaultdict(list)

    def record_input(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs_of[layer].append(inputs[0])
        # The same tensor may have been changed in place.
        sums[layer].append(float(inputs[0].double().sum()))

    layers = list(find_linear_layers(model))
    hooks = [layer.register_forward_pre_hook(record_input) for layer in {layer for _, _, layer in layers}]
    try:
        computed = compute()
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(layer for _, _, layer in layers)
    groups: defaultdict[Any, list[str]] = defaultdict(list)
    for parent, name, layer in layers:
        weight, _ = get_weight_and_bias(layer)
        if layer in inputs_of and uses[layer] == 1 and weight.device.type == "cpu":
            # `inputs_of` keeps the inputs alive, so different inputs have different ids.
            inputs = *map(id, inputs_of[layer]), *sums[layer]
            groups[parent, weight.shape[1], weight.dtype, inputs].append(name)
    return [(key[0], tuple(names)) for key, names in groups.items() if len(names) > 1], computed


@torch.inference_mode(mode=False)
@torch.no_grad()
def merge_layers(groups: Sequence[Group]) -> int:
    """Merge the layers of each group.

    Groups are merged one after the other, so at most one group's weights exist twice.

    Returns:
        The number of merged groups.
    """
    for parent, names in groups:
        layers = [getattr(parent, name) for name in names]
        merged = MergedLinear(layers)
        for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
            setattr(parent, name, LinearPart(merged, number, layer))
    return len(groups)
