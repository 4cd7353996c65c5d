"""A model's linear layers, and which of them are faster packed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from acceleration.packed import FORMS, Form, Tiled, can_pack

FormT = TypeVar("FormT")

#: Shape of a layer's weights: (out, in).
Shape = tuple[int, int]

#: Weights of a shape that are tried to see whether packing pays: more than what stays in a core's cache.
_TRIED_BYTES = 32 << 20

#: No number of rows may be much slower: what is tried lies in caches that a whole model does not fit into, where packed
#: weights look better than they are.
_LEAST_GAIN = 0.7

#: Times that each is tried; the shortest counts.
_TRIES = 5


@torch.inference_mode()
def forms_to_pack(model: nn.Module, rows: Sequence[int], tiled: Tiled | None = None) -> dict[Shape, Form]:
    """The fastest form of those layers of a model that are faster when they are packed; found by trying some.

    On processors of AMD most are; on Intel's, for which PyTorch's other kernels are made, that depends on the shape,
    the number of rows and of threads.

    Args:
        rows: numbers of rows that will be computed most; each counts the same.
        tiled: a form to be tried beside those of libraries.
    """
    tried = {
        shape: _fastest_form(layers, rows, tiled)
        for shape, layers in some_of_each_shape(linear_layers(model)).items()
        if layers[0].weight.device.type == "cpu" and can_pack(layers[0].weight.dtype)
    }
    return {shape: form for shape, form in tried.items() if form is not None}


def some_of_each_shape(layers: Iterable[tuple[nn.Module, str, nn.Module]]) -> dict[Shape, list[Any]]:
    """As many layers of each shape as say how fast it is: more than what stays in a core's cache."""
    alike: defaultdict[Shape, list[Any]] = defaultdict(list)
    for _, _, layer in layers:
        weight, _ = weight_and_bias(layer)
        same = alike[weight.shape[0], weight.shape[1]]
        if not same or (len(same) + 1) * weight.nbytes <= _TRIED_BYTES:
            same.append(layer)
    return dict(alike)


def _fastest_form(plain: Sequence[nn.Module], rows: Sequence[int], tiled: Tiled | None) -> Form | None:
    """None if the plain one is."""
    weight, _ = weight_and_bias(plain[0])
    forms: list[Form] = [*FORMS, *([tiled] if tiled is not None and tiled.fits(weight) else [])]
    tried: dict[Form | None, Sequence[nn.Module]] = {None: plain}
    tried |= {form: [form(*weight_and_bias(layer)) for layer in plain] for form in forms if form.computes(weight.dtype)}
    return fastest(tried, rows)


def fastest(tried: Mapping[FormT, Sequence[nn.Module]], rows: Sequence[int]) -> FormT:
    """The form that is the fastest over all numbers of rows, and much slower than the first with none.

    Args:
        tried: the same layers in each form.
    """
    weight, _ = weight_and_bias(next(iter(tried.values()))[0])
    seconds: defaultdict[FormT, list[float]] = defaultdict(list)
    for n in rows:
        inputs = torch.randn(n, weight.shape[1], dtype=weight.dtype)
        # By turns, so that what disturbs one disturbs all.
        turns = [[_seconds(layers, inputs) for layers in tried.values()] for _ in range(_TRIES)]
        for form, taken in zip(tried, zip(*turns, strict=True), strict=True):
            seconds[form].append(min(taken))
    first = next(iter(seconds.values()))

    def fits(taken: Sequence[float]) -> bool:
        return all(_LEAST_GAIN * one <= other for one, other in zip(taken, first, strict=True))

    return min((form for form, taken in seconds.items() if fits(taken)), key=lambda form: math.prod(seconds[form]))


def _seconds(layers: Sequence[nn.Module], inputs: torch.Tensor) -> float:
    """What all of them take."""
    started = perf_counter()
    for layer in layers:
        layer(inputs)
    return perf_counter() - started


def pack(model: nn.Module, forms: Mapping[Shape, Form]) -> int:
    """Replace linear layers of a model on the CPU, one after the other, so that two copies of one exist at most.

    A layer whose weights are another's too, as those of an output head often are the embeddings', gets a copy.

    Args:
        forms: of the layers that are replaced.

    Returns:
        How many were replaced.
    """
    places, packed = list(linear_layers(model)), 0
    while places:
        # Nobody keeps what is replaced.
        packed += _replace(*places.pop(), forms)
    return packed


def linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Each linear layer of the plain kinds, with the module it belongs to and its name there."""
    for parent in model.modules():
        for name, child in parent.named_children():
            # Not of derived classes: those compute something else.
            if type(child) in (nn.Linear, Conv1D):
                yield parent, name, child


def weight_and_bias(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Shapes (out, in) and (out,); GPT-2's `Conv1D` keeps the former the other way around."""
    return (layer.weight.t() if type(layer) is Conv1D else layer.weight), layer.bias


def _replace(parent: nn.Module, name: str, layer: nn.Module, forms: Mapping[Shape, Form]) -> int:
    weight, bias = weight_and_bias(layer)
    form = forms.get((weight.shape[0], weight.shape[1]))
    if form is None or weight.device.type != "cpu" or not form.computes(weight.dtype):
        return 0
    setattr(parent, name, form(weight, bias))
    return 1
