"""All decoder layers of a step as one program, where a model has layers as most models have them.

A layer of transformers is a tree of modules with dozens of small operations. For one token Python and PyTorch take half
as long for these as the matrices take to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from runners.engines.generate.cache import LayerShape
from runners.engines.generate.step import LARGE as LARGE_ATTENTION
from runners.engines.generate.step import Step
from runners.kernels.fused import MOST_ROWS, FusedGate, FusedNorm
from runners.kernels.kernels import Kernels
from runners.kernels.merged import LinearPart
from runners.kernels.program import ROWS, Element, Given, KernelCall, Numbers, Program, ProgramRunner
from runners.kernels.writer import Forwards, Part, Writer, one_for_all

_CHILDREN = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}

#: What a layer asks of attention: heads, scale, window.
_Asked = tuple[int, float, int | None]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Steps that have the same program.

    Attributes:
        slabs: to which keys and values are written.
        groups: of sequences that get one token.
        short: slabs with pieces of prompts that kernels read.
        others: there are pieces that PyTorch reads.
    """

    slabs: int
    groups: int
    short: int
    others: bool


class FusedLayers:
    """What computes all layers: x + attention(norm(x)) and y + feed-forward(norm(y)), one after the other.

    The first layer's `forward` runs the program, and those behind it pass on what it gives. All go back to their own
    for what is no step, or one of many tokens.
    """

    def __init__(self, layers: Sequence[Any], shape: LayerShape, asked: Sequence[_Asked], kernels: Kernels) -> None:
        self._layers, self._asked, self._kernels = layers, asked, kernels
        self._key_heads, self._size, self._value_size = shape.heads, shape.key_size, shape.value_size
        self._heads = asked[0][0]
        self._writer = Writer(kernels, MOST_ROWS)
        self._runner = ProgramRunner(kernels.compiler)
        self._programs: dict[_Kind, Program] = {}
        width = len(layers[0].input_layernorm.forward.factors)
        self._hidden, self._sums, self._normed = (
            self._writer.rows(name, width) for name in ("hidden", "sums", "normed")
        )
        heads = self._heads + self._key_heads
        self._turned = self._writer.rows("turned", heads * self._size)
        self._attended = self._writer.rows("attended", self._heads * self._value_size)
        self._projected = self._writer.rows("projected", heads * self._size + self._key_heads * self._value_size)
        self._texts = kernels.texts(self._size, self._value_size)
        self._result: torch.Tensor | None = None
        self._angles: Any = None

    def forwards(self) -> Forwards:
        """A new `forward` for each layer."""
        return one_for_all(self._layers, self._first, self._behind)

    def _first(
        self,
        plain: Callable[..., torch.Tensor],
        hidden_states: torch.Tensor,
        *positional: Any,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        step: Any = None,
        **others: Any,
    ) -> torch.Tensor:
        angles = position_embeddings
        if not isinstance(step, Step) or angles is None or not self._fits(hidden_states, angles):
            self._result = None
            return plain(hidden_states, *positional, position_embeddings=angles, step=step, **others)
        self._result, self._angles = self._computed(hidden_states, angles, step), angles
        return self._result

    def _behind(
        self, plain: Callable[..., torch.Tensor], hidden_states: torch.Tensor, *positional: Any, **others: Any
    ) -> torch.Tensor:
        if hidden_states is not self._result:
            return plain(hidden_states, *positional, **others)
        if others.get("position_embeddings") is not self._angles:
            raise ValueError("layers turn queries and keys by other angles")
        return hidden_states

    def _fits(self, hidden_states: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> bool:
        shape = (*hidden_states.shape[:2], self._size)
        tensors = hidden_states, *angles
        return (
            len(hidden_states) == 1
            and hidden_states.shape[1] <= MOST_ROWS
            and all(angle.shape == shape for angle in angles)
            and all(tensor.dtype == self._kernels.dtype and tensor.is_contiguous() for tensor in tensors)
        )

    def _computed(
        self, hidden_states: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor], step: Step
    ) -> torch.Tensor:
        """Shape (1, tokens, size)."""
        tokens = hidden_states.shape[1]
        # Without a kernel for them, short ones are read as long ones are.
        others = bool(step.long) or (self._texts is None and bool(step.short))
        short = 0 if self._texts is None else len(step.short)
        kind = _Kind(len(step.writing), len(step.decoding), short, others)
        program = self._programs.get(kind)
        if program is None:
            program = self._programs[kind] = self._program(kind)
        self._hidden[:tokens] = hidden_states[0]
        program.run(tokens, self._given(angles, step), step)
        return torch.add(self._hidden[:tokens], self._sums[:tokens])[None]

    def _given(self, angles: tuple[torch.Tensor, torch.Tensor], step: Step) -> dict[Hashable, int | Numbers]:
        """What a step's program is told."""
        cos, sin = angles
        given: dict[Hashable, int | Numbers] = {"cos": cos.data_ptr(), "sin": sin.data_ptr()}
        for number, writing in enumerate(step.writing):
            given |= {
                ("written", number): len(writing.tokens),
                ("which", number): writing.tokens.data_ptr(),
                ("places", number): writing.places.data_ptr(),
                ("kept keys", number): writing.slab.key_addresses,
                ("kept values", number): writing.slab.value_addresses,
            }
        turned, attended = self._turned, self._attended
        for number, group in enumerate(step.decoding):
            units, at_once = group.units(self._key_heads)
            first = group.tokens.start
            given |= {
                ("units", number): units,
                ("at once", number): at_once,
                ("many", number): int(group.read * self._heads * self._size >= LARGE_ATTENTION),
                ("queries", number): turned.data_ptr() + first * turned.stride(0) * turned.itemsize,
                ("attended", number): attended.data_ptr() + first * attended.stride(0) * attended.itemsize,
                ("indices", number): group.indices.data_ptr(),
                ("positions", number): group.positions.data_ptr(),
                ("capacity", number): group.slab.capacity,
                ("keys", number): group.slab.key_addresses,
                ("values", number): group.slab.value_addresses,
            }
        for number, chunks in enumerate(step.short):
            given |= {
                ("pieces", number): len(chunks.texts) * self._heads,
                ("texts", number): chunks.texts.data_ptr(),
                ("read keys", number): chunks.slab.key_addresses,
                ("read values", number): chunks.slab.value_addresses,
            }
        return given

    # The program

    def _program(self, kind: _Kind) -> Program:
        parts: list[Part] = []
        for number, layer in enumerate(self._layers):
            norm = layer.input_layernorm.forward
            parts.append(self._added_norm(norm, self._sums, self._hidden) if number else self._first_norm(norm))
            parts += self._queries_and_keys(layer.self_attn)
            parts += self._attention(kind, number)
            parts += self._writer.linear(layer.self_attn.o_proj, self._attended, self._sums)
            parts.append(self._added_norm(layer.post_attention_layernorm.forward, self._hidden, self._sums))
            parts += self._feed_forward(layer.mlp)
        return Program(parts, self._runner)

    def _first_norm(self, norm: FusedNorm) -> KernelCall:
        width = len(norm.factors)
        given = self._hidden.data_ptr(), norm.factors.data_ptr(), self._normed.data_ptr(), 1, width, width, width
        return KernelCall(self._kernels.rms_norm, ROWS, (*given, norm.eps), self._writer.large(width))

    def _added_norm(self, norm: FusedNorm, more: torch.Tensor, sums: torch.Tensor) -> KernelCall:
        """`sums` become the sum of both, and its norm is the next input."""
        width = len(norm.factors)
        given = more.data_ptr(), sums.data_ptr(), norm.factors.data_ptr(), self._normed.data_ptr(), width, norm.eps
        return KernelCall(self._kernels.add_rms_norm, ROWS, given, self._writer.large(width))

    def _queries_and_keys(self, attention: Any) -> list[Part]:
        """Projected, normed by heads where the model does that, and turned; side by side."""
        heads, key_heads, size = self._heads, self._key_heads, self._size
        parts = self._writer.linear(attention.q_proj.merged.linear, self._normed, self._projected)
        distance = self._projected.shape[1]
        for name, start, number in (("q_norm", 0, heads), ("k_norm", heads, key_heads)):
            norm: FusedNorm | None = vars(getattr(attention, name, None) or nn.Identity()).get("forward")
            if norm is not None:
                where = self._projected.data_ptr() + start * size * self._projected.itemsize
                given = where, norm.factors.data_ptr(), where, number, size, distance, distance, norm.eps
                parts.append(KernelCall(self._kernels.rms_norm, ROWS, given, self._writer.large(number * size)))
        both = heads + key_heads
        turned = (
            self._projected.data_ptr(), Given("cos"), Given("sin"), self._turned.data_ptr(),
            both, size, distance, both * size,
        )  # fmt: skip
        return [*parts, KernelCall(self._kernels.rotate, ROWS, turned, self._writer.large(both * size))]

    def _attention(self, kind: _Kind, layer: int) -> list[Part]:
        """Keys and values are written, and tokens attend."""
        heads, key_heads, size, value_size = self._heads, self._key_heads, self._size, self._value_size
        turned, projected, parts = self._turned, self._projected, list[Part]()
        kept = (
            ("kept keys", turned, heads * size, key_heads * size),
            ("kept values", projected, (heads + key_heads) * size, key_heads * value_size),
        )
        for number in range(kind.slabs):
            for name, rows, start, width in kept:
                given = (
                    rows.data_ptr() + start * rows.itemsize, Element((name, number), layer),
                    Given(("which", number)), Given(("places", number)), width, rows.shape[1],
                )  # fmt: skip
                parts.append(
                    KernelCall(self._kernels.keep, Given(("written", number)), given, self._writer.large(width))
                )
        _, scale, window = self._asked[layer]
        for number in range(kind.groups):
            asked = (
                Given(("queries", number)), Element(("keys", number), layer), Element(("values", number), layer),
                Given(("attended", number)), Given(("indices", number)), Given(("positions", number)),
                Given(("capacity", number)), key_heads, Given(("at once", number)), turned.shape[1], window or 0,
                self._kernels.bits(scale),
            )  # fmt: skip
            kernel = self._kernels.attend(size, value_size, heads // key_heads)
            parts.append(KernelCall(kernel, Given(("units", number)), asked, Given(("many", number))))
        for number in range(kind.short):
            assert self._texts is not None
            texts = (
                turned.data_ptr(), Element(("read keys", number), layer), Element(("read values", number), layer),
                self._attended.data_ptr(), Given(("texts", number)), heads, heads // key_heads, turned.shape[1],
                key_heads * size, key_heads * value_size, heads * value_size, window or 0, self._kernels.bits(scale),
            )  # fmt: skip
            parts.append(KernelCall(self._texts, Given(("pieces", number)), texts))
        return [*parts, partial(self._read, layer)] if kind.others else parts

    def _read(self, layer: int, tokens: int, step: Step) -> None:
        _, scale, window = self._asked[layer]
        query = self._turned[:tokens, : self._heads * self._size].view(tokens, self._heads, self._size)
        attended = self._attended[:tokens].view(tokens, self._heads, self._value_size)
        short = [chunk for group in step.short for chunk in group.chunks] if self._texts is None else []
        for chunk in [*step.long, *short]:
            step.read(chunk, layer, query, scale, window, attended)

    def _feed_forward(self, mlp: Any) -> list[Part]:
        gate = mlp.forward
        if not isinstance(gate, FusedGate) or gate.both is None:
            return [self._writer.python(mlp, self._normed, self._hidden)]
        both: Any = gate.both
        size = both.out_features // 2
        gates, gated = self._writer.rows("gates", 2 * size), self._writer.rows("gated", size)
        start, behind = gates.data_ptr(), gates.data_ptr() + size * gates.itemsize
        given = start, behind, gated.data_ptr(), size, 2 * size, *gate.factors
        return [
            *self._writer.linear(both, self._normed, gates),
            KernelCall(gate.kernel, ROWS, given, self._writer.large(size)),
            *self._writer.linear(gate.down, gated, self._hidden),
        ]


def fused_layers(
    model: nn.Module, shapes: Sequence[LayerShape], asked: Mapping[int, _Asked], kernels: Kernels
) -> Forwards:
    """A new `forward` for each layer, if all look as if they could have it; whether they compute the same is to be
    tried."""
    layers: list[Any] = [module for module in model.modules() if _fits(module)]
    alike = len(set(shapes)) == 1 and len({heads for heads, _, _ in asked.values()}) == 1
    if not alike or [layer.self_attn.layer_idx for layer in layers] != list(range(len(shapes))):
        return {}
    return FusedLayers(layers, shapes[0], [asked[number] for number in range(len(shapes))], kernels).forwards()


def _fits(module: Any) -> bool:
    """Whether it is a layer of the usual kind, whose parts compute with kernels."""
    if "forward" in vars(module) or {name for name, _ in module.named_children()} != _CHILDREN:
        return False
    attention = module.self_attn
    parts = {name for name, _ in attention.named_children()}
    norms = [module.input_layernorm, module.post_attention_layernorm]
    norms += [getattr(attention, name) for name in parts - _ATTENTION]
    projections = [getattr(attention, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    return (
        parts - {"q_norm", "k_norm"} == _ATTENTION
        and all(isinstance(vars(norm).get("forward"), FusedNorm) for norm in norms)
        and all(isinstance(projection, LinearPart) for projection in projections)
        and "forward" in vars(attention)
        and len({id(projection.merged) for projection in projections if projection is not None}) == 1
    )
