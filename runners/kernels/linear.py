"""Find a model's linear layers, measure which are faster packed, and pack them."""

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
from runners.kernels.packed import Form, OneDnnLinear, TiledForm, TiledLinear

FormT = TypeVar("FormT")

#: Shape of a layer's weights: (out, in).
Shape = tuple[int, int]

#: Bytes of weights per shape that are measured: more than a core's cache holds.
_SAMPLE_BYTES = 32 << 20

#: The outputs of a part of a layer are a multiple of this: whole registers in all forms.
_MIN_OUTPUTS = 64

#: Lowest speed of a form, relative to the first one, for any number of rows. The measured weights fit into caches that
#: a whole model does not fit into, which favours packed weights.
_MIN_SPEED = 0.7

#: Fewest runs of each form, and longest time in seconds to repeat them until the three shortest times agree. With
#: fewer weights the time is shorter: times of small layers vary too much to agree, and matter little.
_MIN_TRIES, _MAX_SECONDS = 5, 0.1

#: Runs after which a slower form is dropped: the first run also compiles code and allocates memory.
_FEW_TRIES = 2

#: Largest ratio of the third shortest time to the shortest one for times that agree.
_MAX_SPREAD = 1.05

#: Factor by which a library must be faster than our own kernels, averaged over the numbers of rows. Our kernels are
#: usually the fastest, and measurements are wrong while another process computes: SmolLM2 then got forms with which
#: it generated a third less for as long as it was served.
CLEARLY_FASTER = 1.25


@torch.inference_mode()
def choose_forms(model: nn.Module, rows: Sequence[int], tiled: TiledForm | None = None) -> dict[Shape, Form]:
    """Measure some layers of each shape, and return the fastest packed forms.

    Shapes that are fastest with plain layers are left out. On AMD CPUs most layers are faster packed. On Intel CPUs,
    which PyTorch's plain kernels are made for, it depends on the shape and on the numbers of rows and threads.

    Args:
        rows: the most frequent numbers of rows; each has the same weight.
        tiled: a form that is used unless a library's form is clearly faster.
    """
    fastest = {
        shape: _pick_fastest_form(layers, rows, tiled)
        for shape, layers in sample_layers(find_linear_layers(model)).items()
        if layers[0].weight.device.type == "cpu"
    }
    return {shape: form for shape, form in fastest.items() if form is not None}


def sample_layers(layers: Iterable[tuple[nn.Module, str, nn.Module]]) -> dict[Shape, list[Any]]:
    """Select enough layers of each shape for a measurement: more than a core's cache holds."""
    samples: defaultdict[Shape, list[Any]] = defaultdict(list)
    for _, _, layer in layers:
        weight, _ = get_weight_and_bias(layer)
        same = samples[weight.shape[0], weight.shape[1]]
        if not same or (len(same) + 1) * weight.nbytes <= _SAMPLE_BYTES:
            same.append(layer)
    return dict(samples)


def _pick_fastest_form(plain: Sequence[nn.Module], rows: Sequence[int], tiled: TiledForm | None) -> Form | None:
    """Return the fastest form of layers of one shape, or None for the plain form."""
    weight, _ = get_weight_and_bias(plain[0])
    own: list[Form | None] = [tiled] if tiled is not None and tiled.fits(weight) else []
    forms = [form for form in (*own, None, OneDnnLinear) if form is None or form.supports(weight.dtype)]
    if forms == [None]:
        return None
    plain = [_sample_outputs(layer) for layer in plain]
    layers_by_form = {
        form: plain if form is None else [form(*get_weight_and_bias(layer)) for layer in plain] for form in forms
    }
    return pick_fastest(layers_by_form, rows, CLEARLY_FASTER if forms[0] is not None else 1)


def _sample_outputs(layer: Any) -> Any:
    """Return a layer with enough outputs for a measurement.

    An output head may be gigabytes, and each form copies it.
    """
    weight, bias = get_weight_and_bias(layer)
    outputs = max(_SAMPLE_BYTES // (weight[0].nbytes or 1), _MIN_OUTPUTS)
    if outputs >= len(weight):
        return layer
    outputs -= outputs % _MIN_OUTPUTS
    return create_linear(weight[:outputs], None if bias is None else bias[:outputs])


def pick_fastest(forms: Mapping[FormT, Sequence[nn.Module]], rows: Sequence[int], factor: float = 1) -> FormT:
    """Measure forms and return the fastest one over all numbers of rows.

    A form that is much slower than the first one for any number of rows is not returned.

    Args:
        forms: the same layers in each form.
        rows: numbers of rows to measure.
        factor: how much faster than the first form another must be, as the geometric mean over the numbers of rows. If
            it is more than 1, a form is dropped as soon as it is slower than the first, which saves most of the time.
    """
    first, layers = next(iter(forms.items()))
    weight, _ = get_weight_and_bias(layers[0])
    max_seconds = _MAX_SECONDS * min(len(layers) * weight.nbytes / _SAMPLE_BYTES, 1)
    left, seconds = dict(forms), defaultdict[FormT, list[float]](list)
    for n in rows:
        inputs = torch.randn(n, weight.shape[1], dtype=weight.dtype)
        shortest = _measure_forms(left, inputs, max_seconds, drop_slower=factor > 1)
        left = {form: left[form] for form in shortest}
        for form, time in shortest.items():
            seconds[form].append(time)
        if len(left) == 1:
            return first
    fitting = [form for form in left if form is not first and all(map(_is_fast_enough, seconds[form], seconds[first]))]
    best = min(fitting, key=lambda form: math.prod(seconds[form]), default=first)
    return best if factor ** len(rows) * math.prod(seconds[best]) < math.prod(seconds[first]) else first


def _is_fast_enough(seconds: float, first_seconds: float) -> bool:
    return _MIN_SPEED * seconds <= first_seconds


def _measure_forms(
    forms: Mapping[FormT, Sequence[nn.Module]], inputs: torch.Tensor, max_seconds: float, *, drop_slower: bool
) -> dict[FormT, float]:
    """Measure the shortest time of each form in seconds.

    Args:
        drop_slower: drop a form as soon as it is measured to be slower than the first.
    """
    end = perf_counter() + max_seconds
    times_by_form: dict[FormT, list[float]] = {form: [] for form in forms}
    first = times_by_form[next(iter(forms))]
    while len(first) < _MIN_TRIES or (perf_counter() < end and not all(map(_are_stable, times_by_form.values()))):
        # By turns, so that a disturbance affects all forms alike.
        for form, times in times_by_form.items():
            times.append(_measure_layers(forms[form], inputs))
        if drop_slower and len(first) == _FEW_TRIES:
            times_by_form = {
                form: times for form, times in times_by_form.items() if times is first or min(times) < min(first)
            }
            if len(times_by_form) == 1:
                break
    return {form: min(times) for form, times in times_by_form.items()}


def _are_stable(times: Sequence[float]) -> bool:
    shortest, _, third = nsmallest(3, times)
    return third <= _MAX_SPREAD * shortest


def _measure_layers(layers: Sequence[nn.Module], inputs: torch.Tensor) -> float:
    """Measure the time of all layers in seconds."""
    started = perf_counter()
    for layer in layers:
        layer(inputs)
    return perf_counter() - started


def pack_layers(model: nn.Module, forms: Mapping[Shape, Form]) -> int:
    """Replace linear layers of a model on the CPU by packed ones.

    Layers are replaced one after the other, so at most one layer's weights exist twice. Embeddings that share their
    weights with an output head in panels read them from the head.

    Args:
        forms: form of each shape that is replaced.

    Returns:
        The number of replaced layers.
    """
    layers, tables, packed = list(find_linear_layers(model)), SharedTables(_find_modules(model, nn.Embedding)), 0
    while layers:
        # `pop` drops the reference to the plain layer, so its memory is freed.
        packed += _pack_layer(*layers.pop(), forms, tables)
    return packed


def find_linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Find each plain linear layer, with its parent module and its name in the parent."""
    return _find_modules(model, nn.Linear, Conv1D)


def get_weight_and_bias(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weights of shape (out, in) and bias of shape (out,).

    GPT-2's `Conv1D` stores the weights transposed.
    """
    return (layer.weight.t() if type(layer) is Conv1D else layer.weight), layer.bias


def create_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """Create a linear layer from weights without copying them."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _find_modules(model: nn.Module, *kinds: type[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Find modules of some types; subclasses are left out, as they compute something else."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) in kinds:
                yield parent, name, child


def _pack_layer(
    parent: nn.Module, name: str, layer: nn.Module, forms: Mapping[Shape, Form], tables: SharedTables
) -> int:
    weight, bias = get_weight_and_bias(layer)
    form = forms.get((weight.shape[0], weight.shape[1]))
    if form is None or weight.device.type != "cpu" or not form.supports(weight.dtype):
        return 0
    packed = form(weight, bias)
    setattr(parent, name, packed)
    if isinstance(packed, TiledLinear):
        tables.share_with(packed, weight)
    return 1
