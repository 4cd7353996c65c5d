"""All layers of a BERT-like or DistilBERT-like encoder as one program of kernel calls.

A layer of transformers is a tree of modules with dozens of operations. For a short sequence, half of the time is spent
in Python between these operations.
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
from runners.kernels.parallel import encode_float
from runners.kernels.program import ROW_COUNT, KernelCall, Program, ProgramRunner, RunValue
from runners.kernels.program_builder import Forwards, Part, ProgramBuilder, build_forwards, install_if_equivalent
from runners.kernels.unpadded import compare_outputs, compute_trial_outputs

#: Largest number of tokens of a batch for the program. In larger batches operations take longer than Python's overhead.
MAX_ROWS = 4096


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Parts of one encoder layer.

    The layer computes y = norm(x + out(attention(x))), then next_norm(y + last(activation(inner(y)))).

    Attributes:
        projections: the merged layer for queries, keys and values, in this order.
        heads: number of query heads, and of key heads.
        scale: factor of attention scores.
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


class _ThreadState(threading.local):
    """Program of one thread, and its last result."""

    def __init__(self) -> None:
        self.allocated: _AllocatedProgram | None = None
        self.result: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class _AllocatedProgram:
    """Program with its memory.

    Attributes:
        hidden: shape (rows, width): input and output of the layers.
        owners: objects that own the memory that the program uses.
    """

    program: Program
    hidden: torch.Tensor
    owners: Sequence[Any]


class EncoderProgram:
    """Program that computes all layers of an encoder.

    The first layer's new `forward` runs the program, and the ones of later layers return their input. For batches of
    many tokens and for inputs with an attention mask, every layer calls its own `forward`.
    """

    def __init__(self, layers: Sequence[EncoderLayer], kernels: Kernels) -> None:
        self._layers, self._kernels = layers, kernels
        self._width: int = layers[0].projections.in_features
        self._runner = ProgramRunner(kernels.compiler)
        self._thread = _ThreadState()

    def build_forwards(self, modules: Sequence[Any]) -> Forwards:
        """Return a new `forward` for each layer."""
        return build_forwards(modules, self._compute_all_layers, self._pass_through)

    def free_memory(self) -> None:
        """Free the memory of the calling thread's program; its next batch allocates it again."""
        self._thread.allocated = self._thread.result = None

    def _compute_all_layers(
        self,
        plain: Callable[..., torch.Tensor],
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *positional: Any,
        unpadded_lengths: list[int] | None = None,
        **others: Any,
    ) -> torch.Tensor:
        state = self._thread
        if attention_mask is not None or not self._fits(hidden_states):
            state.result = None
            return plain(hidden_states, attention_mask, *positional, unpadded_lengths=unpadded_lengths, **others)
        batch, length, width = hidden_states.shape
        sequences = _describe_sequences([length] * batch if unpadded_lengths is None else unpadded_lengths)
        if state.allocated is None:
            state.allocated = self._allocate_program()
        rows = batch * length
        computed = state.allocated.hidden[:rows]
        computed.copy_(hidden_states.view(rows, width))
        state.allocated.program.run(
            rows, {"units": len(sequences) * self._layers[0].heads, "sequences": sequences.data_ptr()}, None
        )
        # A copy, because the next batch overwrites this memory.
        state.result = computed.clone().view(hidden_states.shape)
        return state.result

    def _pass_through(
        self, plain: Callable[..., torch.Tensor], hidden_states: torch.Tensor, *positional: Any, **others: Any
    ) -> torch.Tensor:
        is_computed = hidden_states is self._thread.result
        return hidden_states if is_computed else plain(hidden_states, *positional, **others)

    def _fits(self, hidden_states: torch.Tensor) -> bool:
        return (
            hidden_states.dtype == self._kernels.dtype
            and 0 < hidden_states.shape[0] * hidden_states.shape[1] <= MAX_ROWS
            and hidden_states.is_contiguous()
        )

    def _allocate_program(self) -> _AllocatedProgram:
        builder = ProgramBuilder(self._kernels, MAX_ROWS)
        layers = [_LayerBuilder(layer, self._kernels, builder) for layer in self._layers]
        program = Program([part for layer in layers for part in layer.build()], self._runner)
        return _AllocatedProgram(program, builder.get_rows("hidden", self._width), [builder, layers])


class _LayerBuilder:
    """Builder of the program parts of one layer, which reads and overwrites `hidden`."""

    def __init__(self, layer: EncoderLayer, kernels: Kernels, builder: ProgramBuilder) -> None:
        self._layer, self._kernels, self._builder = layer, kernels, builder
        norms = layer.norm, layer.next_norm
        self._norm_weights = {norm: (norm.weight.float(), norm.bias.float()) for norm in norms}

    def build(self) -> list[Part]:
        """Return the parts in order."""
        layer, builder = self._layer, self._builder
        width = layer.projections.in_features
        hidden, sums, attended = (builder.get_rows(name, width) for name in ("hidden", "sums", "attended"))
        projected = builder.get_rows("projected", layer.projections.out_features)
        inner = builder.get_rows("inner", layer.inner.out_features)
        return [
            *builder.build_linear(layer.projections, hidden, projected),
            self._build_attention(projected, attended),
            *builder.build_linear(layer.out, attended, sums),
            self._build_add_norm(layer.norm, hidden, sums),
            *builder.build_linear(layer.inner, sums, inner),
            self._build_activation(inner),
            *builder.build_linear(layer.last, inner, hidden),
            self._build_add_norm(layer.next_norm, sums, hidden),
        ]

    def _build_attention(self, projected: torch.Tensor, attended: torch.Tensor) -> KernelCall:
        width, heads = attended.shape[1], self._layer.heads
        kernel = self._kernels.get_sequence_attention(width // heads, width // heads)
        assert kernel is not None, "this is a bug: there is no kernel for heads of this size"
        query, key, value = (projected.data_ptr() + number * width * projected.itemsize for number in range(3))
        arguments = (
            query, key, value, attended.data_ptr(), RunValue("sequences"), heads, 1, 3 * width, 3 * width, 3 * width,
            width, 0, encode_float(self._layer.scale),
        )  # fmt: skip
        return KernelCall(kernel, RunValue("units"), arguments)

    def _build_add_norm(self, norm: nn.LayerNorm, more: torch.Tensor, sums: torch.Tensor) -> KernelCall:
        """Return the call that stores the layer norm of `more` + `sums` in `sums`."""
        width, (factors, added) = sums.shape[1], self._norm_weights[norm]
        arguments = (
            more.data_ptr(), sums.data_ptr(), factors.data_ptr(), added.data_ptr(), sums.data_ptr(), width,
            encode_float(norm.eps),
        )  # fmt: skip
        return KernelCall(self._kernels.add_layer_norm, ROW_COUNT, arguments, self._builder.build_large_flag(width))

    def _build_activation(self, values: torch.Tensor) -> Part:
        width, activation = values.shape[1], self._layer.activation
        if _is_gelu(activation):
            return KernelCall(
                self._kernels.gelu, ROW_COUNT, (values.data_ptr(), width), self._builder.build_large_flag(width)
            )
        return partial(_apply_in_place, activation, values)


def _apply_in_place(activation: Any, values: torch.Tensor, rows: int, _: None) -> None:
    values[:rows] = activation(values[:rows])


def _describe_sequences(lengths: Sequence[int]) -> torch.Tensor:
    """Return the attention kernel's `SEQUENCE_FIELDS` for each sequence.

    Every token attends to all tokens of its own sequence.
    """
    ends = torch.tensor(lengths).cumsum(0)
    length = torch.tensor(lengths)
    return torch.stack([ends - length, ends - length, length, length, length], 1)


def _is_gelu(activation: Any) -> bool:
    values = torch.linspace(-8, 8, 257)
    return torch.allclose(activation(values), gelu(values), rtol=0, atol=1e-6)


@torch.inference_mode()
def install_program(model: Any, kernels: Kernels) -> EncoderProgram | None:
    """Install one program for all layers of a model that computes batches without padding.

    Returns:
        The layers' program; None if the layers have another structure. The model is then unchanged.

    Raises:
        DifferentResults: the program computes other results. The model is then unchanged.
    """
    found = {module: layer for module in model.modules() if (layer := _find_layer(module)) is not None}
    modules, layers = list(found), list(found.values())
    shown = model.config.output_hidden_states or model.config.output_attentions
    if (
        shown
        or len(layers) != getattr(model.config, "num_hidden_layers", None)
        or not _have_same_shape(layers, kernels)
    ):
        return None
    expected = compute_trial_outputs(model)
    program = EncoderProgram(layers, kernels)
    int8 = has_int8_layers(model)
    install_if_equivalent(
        program.build_forwards(modules),
        lambda: compare_outputs(compute_trial_outputs(model), expected, model.dtype, int8=int8),
    )
    return program


def _have_same_shape(layers: Sequence[EncoderLayer], kernels: Kernels) -> bool:
    widths = {(layer.projections.in_features, layer.projections.out_features, layer.heads) for layer in layers}
    if len(widths) != 1:
        return False
    width, projected, heads = widths.pop()
    return (
        projected == 3 * width
        and width % heads == 0
        and kernels.get_sequence_attention(width // heads, width // heads) is not None
    )


def _find_layer(module: Any) -> EncoderLayer | None:
    """Return the parts of a layer, or None if the module is not a layer of a known kind."""
    children = {name for name, _ in module.named_children()}
    if {"attention", "intermediate", "output"} == children:
        return _read_bert_layer(module)
    return (
        _read_distilbert_layer(module)
        if {"attention", "sa_layer_norm", "ffn", "output_layer_norm"} == children
        else None
    )


def _read_bert_layer(module: Any) -> EncoderLayer | None:
    try:
        own, out, inner, last = module.attention.self, module.attention.output, module.intermediate, module.output
        if {name for name, _ in own.named_children()} - {"dropout"} != {"query", "key", "value"}:
            return None
        merged = _find_merged_projections(own.query, own.key, own.value)
        if merged is None:
            return None
        layer = EncoderLayer(
            merged, own.num_attention_heads, own.scaling, out.dense, out.LayerNorm, inner.dense,
            inner.intermediate_act_fn, last.dense, last.LayerNorm,
        )  # fmt: skip
    except AttributeError:
        return None
    return layer if _are_norms(layer.norm, layer.next_norm) else None


def _read_distilbert_layer(module: Any) -> EncoderLayer | None:
    try:
        own, inner = module.attention, module.ffn
        merged = _find_merged_projections(own.q_lin, own.k_lin, own.v_lin)
        if merged is None:
            return None
        layer = EncoderLayer(
            merged, own.n_heads, own.scaling, own.out_lin, module.sa_layer_norm, inner.lin1, inner.activation,
            inner.lin2, module.output_layer_norm,
        )  # fmt: skip
    except AttributeError:
        return None
    return layer if _are_norms(layer.norm, layer.next_norm) else None


def _find_merged_projections(*projections: Any) -> Any | None:
    """Return the merged layer of queries, keys and values in this order, or None."""
    if not all(isinstance(one, LinearPart) for one in projections):
        return None
    same = len({id(one.merged) for one in projections}) == 1
    in_order = [one.number for one in projections] == list(range(len(projections)))
    return projections[0].merged.linear if same and in_order else None


def _are_norms(*norms: Any) -> bool:
    return all(type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None for norm in norms)
