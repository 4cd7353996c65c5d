"""A model's linear layers, and which of them are faster packed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from runners.kernels.embedding import SharedTables
from runners.kernels.packed import FORMS, Form, Tiled, TiledLinear, can_pack

FormT = TypeVar("FormT")

#: Shape of a layer's weights: (out, in).
Shape = tuple[int, int]

#: Weights of a shape that are tried to see whether packing pays: more than what stays in a core's cache.
_TRIED_BYTES = 32 << 20

#: Outputs of a part of a layer are so many, or a multiple: whole registers in all forms.
_LEAST_OUTPUTS = 64

#: No number of rows may be much slower: what is tried lies in caches that a whole model does not fit into, where packed
#: weights look better than they are.
_LEAST_GAIN = 0.7

#: Each is tried so often at least, and again until its three shortest times agree, for so many seconds at most; for
#: fewer where fewer weights are tried: times of small layers never agree beside others, and matter little.
_LEAST_TRIES, _MOST_SECONDS = 5, 0.1

#: Tries after which a form may be told to be slower: the first one has made code, and found memory.
_FEW_TRIES = 2

#: How much longer than the shortest one the third may be, for them to be what it takes.
_AGREE = 1.05

#: How much faster than kernels of our own others must be with each number of rows. Those are mostly the fastest, and
#: nothing is measured well while another process computes: SmolLM2 got forms with which it wrote two thirds of the
#: text, for as long as it was served.
CLEARLY = 1.25


@torch.inference_mode()
def forms_to_pack(model: nn.Module, rows: Sequence[int], tiled: Tiled | None = None) -> dict[Shape, Form]:
    """The fastest form of those layers of a model that are faster when they are packed; found by trying some.

    On processors of AMD most are; on Intel's, for which PyTorch's other kernels are made, that depends on the shape,
    the number of rows and of threads.

    Args:
        rows: numbers of rows that will be computed most; each counts the same.
        tiled: a form that is taken unless one of libraries is clearly faster.
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
    own: list[Form | None] = [tiled] if tiled is not None and tiled.fits(weight) else []
    plain = [_part(layer) for layer in plain]
    forms = [form for form in [*own, None, *FORMS] if form is None or form.computes(weight.dtype)]
    tried = {form: plain if form is None else [form(*weight_and_bias(layer)) for layer in plain] for form in forms}
    return fastest(tried, rows, CLEARLY if forms[0] is not None else 1)


def _part(layer: Any) -> Any:
    """As many of a layer's outputs as say how fast it is: a head may be gigabytes, and each form is a copy."""
    weight, bias = weight_and_bias(layer)
    outputs = max(_TRIED_BYTES // (weight[0].nbytes or 1), _LEAST_OUTPUTS)
    if outputs >= len(weight):
        return layer
    outputs -= outputs % _LEAST_OUTPUTS
    return plain_linear(weight[:outputs], None if bias is None else bias[:outputs])


def fastest(tried: Mapping[FormT, Sequence[nn.Module]], rows: Sequence[int], factor: float = 1) -> FormT:
    """The form that is the fastest over all numbers of rows, and much slower than the first with none.

    Args:
        tried: the same layers in each form.
        factor: how much faster than the first another must be with each number of rows, in the mean. If it is more than
            1, one that is found to be slower than the first is tried no further, which spares most of the time.
    """
    first, layers = next(iter(tried.items()))
    weight, _ = weight_and_bias(layers[0])
    most_seconds = _MOST_SECONDS * min(len(layers) * weight.nbytes / _TRIED_BYTES, 1)
    left, seconds = dict(tried), defaultdict[FormT, list[float]](list)
    for n in rows:
        inputs = torch.randn(n, weight.shape[1], dtype=weight.dtype)
        shortest = _shortest(left, inputs, most_seconds, faster_alone=factor > 1)
        left = {form: left[form] for form in shortest}
        for form, time in shortest.items():
            seconds[form].append(time)
        if len(left) == 1:
            return first
    fitting = [form for form in left if form is not first and all(map(_fits, seconds[form], seconds[first]))]
    best = min(fitting, key=lambda form: math.prod(seconds[form]), default=first)
    return best if factor ** len(rows) * math.prod(seconds[best]) < math.prod(seconds[first]) else first


def _fits(seconds: float, of_first: float) -> bool:
    return _LEAST_GAIN * seconds <= of_first


def _shortest(
    tried: Mapping[FormT, Sequence[nn.Module]], inputs: torch.Tensor, most_seconds: float, *, faster_alone: bool
) -> dict[FormT, float]:
    """Seconds that each takes if nothing disturbs it.

    Args:
        faster_alone: leave out what is slower than the first, as soon as that can be told.
    """
    end = perf_counter() + most_seconds
    taken: dict[FormT, list[float]] = {form: [] for form in tried}
    first = taken[next(iter(tried))]
    while len(first) < _LEAST_TRIES or (perf_counter() < end and not all(map(_agree, taken.values()))):
        # By turns, so that what disturbs one disturbs all.
        for form, times in taken.items():
            times.append(_seconds(tried[form], inputs))
        if faster_alone and len(first) == _FEW_TRIES:
            taken = {form: times for form, times in taken.items() if times is first or min(times) < min(first)}
            if len(taken) == 1:
                break
    return {form: min(times) for form, times in taken.items()}


def _agree(times: Sequence[float]) -> bool:
    shortest, _, third = nsmallest(3, times)
    return third <= _AGREE * shortest


def _seconds(layers: Sequence[nn.Module], inputs: torch.Tensor) -> float:
    """What all of them take."""
    started = perf_counter()
    for layer in layers:
        layer(inputs)
    return perf_counter() - started


def pack(model: nn.Module, forms: Mapping[Shape, Form]) -> int:
    """Replace linear layers of a model on the CPU, one after the other, so that two copies of one exist at most.

    An output head in panels lends its weights to embeddings that had the same.

    Args:
        forms: of the layers that are replaced.

    Returns:
        How many were replaced.
    """
    places, tables, packed = list(linear_layers(model)), SharedTables(_plain(model, nn.Embedding)), 0
    while places:
        # Nobody keeps what is replaced.
        packed += _replace(*places.pop(), forms, tables)
    return packed


def linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Each linear layer of the plain kinds, with the module it belongs to and its name there."""
    return _plain(model, nn.Linear, Conv1D)


def weight_and_bias(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Shapes (out, in) and (out,); GPT-2's `Conv1D` keeps the former the other way around."""
    return (layer.weight.t() if type(layer) is Conv1D else layer.weight), layer.bias


def plain_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """The layer of such weights, which are not copied."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _plain(model: nn.Module, *kinds: type[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Modules of some kinds, but not of derived ones: those compute something else."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) in kinds:
                yield parent, name, child


def _replace(parent: nn.Module, name: str, layer: nn.Module, forms: Mapping[Shape, Form], tables: SharedTables) -> int:
    weight, bias = weight_and_bias(layer)
    form = forms.get((weight.shape[0], weight.shape[1]))
    if form is None or weight.device.type != "cpu" or not form.computes(weight.dtype):
        return 0
    packed = form(weight, bias)
    setattr(parent, name, packed)
    if isinstance(packed, TiledLinear):
        tables.read_from(packed, weight)
    return 1
