"""All layers of an encoder as one program, where a model has layers as BERT and DistilBERT have them.

A short text is half of the time on its way between operations: a layer of transformers is a tree of modules with
dozens of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu

from runners.kernels.int8 import has_int8_layers
from runners.kernels.kernels import Kernels
from runners.kernels.merged import LinearPart
from runners.kernels.program import ROWS, Given, KernelCall, Program, ProgramRunner
from runners.kernels.unpadded import compare, outputs
from runners.kernels.writer import Forwards, Part, Writer, install_if_equivalent, one_for_all

#: Tokens of a batch up to which it is computed so. Behind that, operations take so long that nobody waits for Python.
MOST_ROWS = 4096


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """A layer: y = norm(x + out(attention(x))), and next_norm(y + last(activation(inner(y)))).

    Attributes:
        projections: queries, keys and values, as one layer.
        heads: of queries, as many of keys.
    """

    projections: Any
    heads: int
    scale: float
    out: Any
    norm: nn.LayerNorm
    inner: Any
    activation: Any
    last: Any
    next_norm: nn.LayerNorm


class _OfThread(threading.local):
    """A thread's program, and what it gave last."""

    def __init__(self) -> None:
        self.written: _Written | None = None
        self.result: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Written:
    """A program with what it changes, and what it reads.

    Attributes:
        hidden: shape (rows, width): what layers are given, and what they give.
        kept: whose memory the program uses.
    """

    program: Program
    hidden: torch.Tensor
    kept: Sequence[Any]


class EncoderLayers:
    """What computes all layers.

    The first layer's `forward` runs the program, and those behind it pass on what it gives. All go back to their own
    for batches of many tokens, and for what has a mask.
    """

    def __init__(self, layers: Sequence[EncoderLayer], kernels: Kernels) -> None:
        self._layers, self._kernels = layers, kernels
        self._width: int = layers[0].projections.in_features
        self._runner = ProgramRunner(kernels.compiler)
        self._of_thread = _OfThread()

    def forwards(self, modules: Sequence[Any]) -> Forwards:
        """A new `forward` for each layer."""
        return one_for_all(modules, self._first, self._behind)

    def forget(self) -> None:
        """Give back the memory that the calling thread computes in; it takes what its next batch needs."""
        self._of_thread.written = self._of_thread.result = None

    def _first(
        self,
        plain: Callable[..., torch.Tensor],
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *positional: Any,
        text_lengths: list[int] | None = None,
        **others: Any,
    ) -> torch.Tensor:
        of_thread = self._of_thread
        if attention_mask is not None or not self._fits(hidden_states):
            of_thread.result = None
            return plain(hidden_states, attention_mask, *positional, text_lengths=text_lengths, **others)
        batch, length, width = hidden_states.shape
        texts = _texts([length] * batch if text_lengths is None else text_lengths)
        if of_thread.written is None:
            of_thread.written = self._write()
        rows = batch * length
        computed = of_thread.written.hidden[:rows]
        computed.copy_(hidden_states.view(rows, width))
        of_thread.written.program.run(
            rows, {"units": len(texts) * self._layers[0].heads, "texts": texts.data_ptr()}, None
        )
        # The next batch is computed in the same memory.
        of_thread.result = computed.clone().view(hidden_states.shape)
        return of_thread.result

    def _behind(
        self, plain: Callable[..., torch.Tensor], hidden_states: torch.Tensor, *positional: Any, **others: Any
    ) -> torch.Tensor:
        passes_on = hidden_states is self._of_thread.result
        return hidden_states if passes_on else plain(hidden_states, *positional, **others)

    def _fits(self, hidden_states: torch.Tensor) -> bool:
        return (
            hidden_states.dtype == self._kernels.dtype
            and 0 < hidden_states.shape[0] * hidden_states.shape[1] <= MOST_ROWS
            and hidden_states.is_contiguous()
        )

    def _write(self) -> _Written:
        writer = Writer(self._kernels, MOST_ROWS)
        written = [_LayerParts(layer, self._kernels, writer) for layer in self._layers]
        program = Program([part for layer in written for part in layer.parts()], self._runner)
        return _Written(program, writer.rows("hidden", self._width), [writer, written])


class _LayerParts:
    """What a layer computes, of rows that lie as `hidden`, and to the same place."""

    def __init__(self, layer: EncoderLayer, kernels: Kernels, writer: Writer) -> None:
        self._layer, self._kernels, self._writer = layer, kernels, writer
        norms = layer.norm, layer.next_norm
        self._factors = {norm: (norm.weight.float(), norm.bias.float()) for norm in norms}

    def parts(self) -> list[Part]:
        """In order."""
        layer, writer = self._layer, self._writer
        width = layer.projections.in_features
        hidden, sums, attended = (writer.rows(name, width) for name in ("hidden", "sums", "attended"))
        projected = writer.rows("projected", layer.projections.out_features)
        inner = writer.rows("inner", layer.inner.out_features)
        return [
            *writer.linear(layer.projections, hidden, projected),
            self._attention(projected, attended),
            *writer.linear(layer.out, attended, sums),
            self._added_norm(layer.norm, hidden, sums),
            *writer.linear(layer.inner, sums, inner),
            self._activation(inner),
            *writer.linear(layer.last, inner, hidden),
            self._added_norm(layer.next_norm, sums, hidden),
        ]

    def _attention(self, projected: torch.Tensor, attended: torch.Tensor) -> KernelCall:
        width, heads = attended.shape[1], self._layer.heads
        kernel = self._kernels.texts(width // heads, width // heads)
        assert kernel is not None, "this is a bug: there is no kernel for heads of this size"
        query, key, value = (projected.data_ptr() + number * width * projected.itemsize for number in range(3))
        given = (
            query, key, value, attended.data_ptr(), Given("texts"), heads, 1, 3 * width, 3 * width, 3 * width, width, 0,
            self._kernels.bits(self._layer.scale),
        )  # fmt: skip
        return KernelCall(kernel, Given("units"), given)

    def _added_norm(self, norm: nn.LayerNorm, more: torch.Tensor, sums: torch.Tensor) -> KernelCall:
        """`sums` become the norm of the sum of both."""
        width, (factors, added) = sums.shape[1], self._factors[norm]
        given = (
            more.data_ptr(), sums.data_ptr(), factors.data_ptr(), added.data_ptr(), sums.data_ptr(), width,
            self._kernels.bits(norm.eps),
        )  # fmt: skip
        return KernelCall(self._kernels.add_layer_norm, ROWS, given, self._writer.large(width))

    def _activation(self, numbers: torch.Tensor) -> Part:
        width, activation = numbers.shape[1], self._layer.activation
        if _is_gelu(activation):
            return KernelCall(self._kernels.gelu, ROWS, (numbers.data_ptr(), width), self._writer.large(width))
        return partial(_in_place, activation, numbers)


def _in_place(activation: Any, numbers: torch.Tensor, rows: int, _: None) -> None:
    numbers[:rows] = activation(numbers[:rows])


def _texts(lengths: Sequence[int]) -> torch.Tensor:
    """What a kernel of texts is told: each sees itself alone, and all of it."""
    ends = torch.tensor(lengths).cumsum(0)
    length = torch.tensor(lengths)
    return torch.stack([ends - length, ends - length, length, length, length], 1)


def _is_gelu(activation: Any) -> bool:
    numbers = torch.linspace(-8, 8, 257)
    return torch.allclose(activation(numbers), gelu(numbers), rtol=0, atol=1e-6)


@torch.inference_mode()
def as_program(model: Any, kernels: Kernels) -> EncoderLayers | None:
    """Compute the layers of a model that is computed without padding as one program, if they look as if they could be,
    and it then gives the same.

    Returns:
        What computes them; None if they do not look so, and are as they were.

    Raises:
        DifferentResults: they do not give the same; they are as they were.
    """
    found = {module: layer for module in model.modules() if (layer := _layer(module)) is not None}
    modules, layers = list(found), list(found.values())
    shown = model.config.output_hidden_states or model.config.output_attentions
    if shown or len(layers) != getattr(model.config, "num_hidden_layers", None) or not _alike(layers, kernels):
        return None
    expected = outputs(model)
    program = EncoderLayers(layers, kernels)
    int8 = has_int8_layers(model)
    install_if_equivalent(program.forwards(modules), lambda: compare(outputs(model), expected, model.dtype, int8=int8))
    return program


def _alike(layers: Sequence[EncoderLayer], kernels: Kernels) -> bool:
    widths = {(layer.projections.in_features, layer.projections.out_features, layer.heads) for layer in layers}
    if len(widths) != 1:
        return False
    width, projected, heads = widths.pop()
    return projected == 3 * width and width % heads == 0 and kernels.texts(width // heads, width // heads) is not None


def _layer(module: Any) -> EncoderLayer | None:
    """A layer's parts, if it is one."""
    children = {name for name, _ in module.named_children()}
    if {"attention", "intermediate", "output"} == children:
        return _of_bert(module)
    return _of_distilbert(module) if {"attention", "sa_layer_norm", "ffn", "output_layer_norm"} == children else None


def _of_bert(module: Any) -> EncoderLayer | None:
    try:
        own, out, inner, last = module.attention.self, module.attention.output, module.intermediate, module.output
        if {name for name, _ in own.named_children()} - {"dropout"} != {"query", "key", "value"}:
            return None
        merged = _merged(own.query, own.key, own.value)
        if merged is None:
            return None
        found = EncoderLayer(
            merged, own.num_attention_heads, own.scaling, out.dense, out.LayerNorm, inner.dense,
            inner.intermediate_act_fn, last.dense, last.LayerNorm,
        )  # fmt: skip
    except AttributeError:
        return None
    return found if _are_norms(found.norm, found.next_norm) else None


def _of_distilbert(module: Any) -> EncoderLayer | None:
    try:
        own, inner = module.attention, module.ffn
        merged = _merged(own.q_lin, own.k_lin, own.v_lin)
        if merged is None:
            return None
        found = EncoderLayer(
            merged, own.n_heads, own.scaling, own.out_lin, module.sa_layer_norm, inner.lin1, inner.activation,
            inner.lin2, module.output_layer_norm,
        )  # fmt: skip
    except AttributeError:
        return None
    return found if _are_norms(found.norm, found.next_norm) else None


def _merged(*projections: Any) -> Any | None:
    """The layer that computes queries, keys and values, in this order."""
    if not all(isinstance(one, LinearPart) for one in projections):
        return None
    same = len({id(one.merged) for one in projections}) == 1
    in_order = [one.number for one in projections] == list(range(len(projections)))
    return projections[0].merged.linear if same and in_order else None


def _are_norms(*norms: Any) -> bool:
    return all(type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None for norm in norms)
