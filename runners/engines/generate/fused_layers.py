"""All decoder layers of a step as one program, for models with Llama-like layers.

A layer of transformers is a tree of modules with dozens of small operations. For one token, their overhead in Python
and PyTorch takes half as long as reading the weight matrices.
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
from runners.kernels.fused import MAX_ROWS, FusedGate, FusedNorm
from runners.kernels.kernels import Kernels
from runners.kernels.merged import LinearPart
from runners.kernels.parallel import encode_float
from runners.kernels.program import ROW_COUNT, IntArray, KernelCall, Program, ProgramRunner, RunElement, RunValue
from runners.kernels.program_builder import Forwards, Part, ProgramBuilder, build_forwards

_CHILDREN = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}

#: Attention parameters of a layer: heads, scale, window.
_AttentionSpec = tuple[int, float, int | None]


@dataclass(frozen=True, slots=True)
class _StepShape:
    """Shape of a step; steps of equal shape run the same program.

    Attributes:
        slabs: number of slabs that keys and values are stored in.
        groups: number of decode batches.
        short: number of slabs with prefill chunks that a kernel computes.
        by_pytorch: there are prefill chunks that PyTorch computes.
    """

    slabs: int
    groups: int
    short: int
    by_pytorch: bool


class FusedLayers:
    """Program of all layers: x + attention(norm(x)), then y + feed-forward(norm(y)).

    The first layer's `forward` runs the program, and the other layers return its result unchanged. For inputs that are
    no step, and for steps of too many tokens, all layers use their own `forward`.
    """

    def __init__(
        self, layers: Sequence[Any], shape: LayerShape, specs: Sequence[_AttentionSpec], kernels: Kernels
    ) -> None:
        self._layers, self._specs, self._kernels = layers, specs, kernels
        self._key_heads, self._size, self._value_size = shape.heads, shape.key_size, shape.value_size
        self._heads = specs[0][0]
        self._builder = ProgramBuilder(kernels, MAX_ROWS)
        self._runner = ProgramRunner(kernels.compiler)
        self._programs: dict[_StepShape, Program] = {}
        width = len(layers[0].input_layernorm.forward.factors)
        self._hidden, self._sums, self._normed = (
            self._builder.get_rows(name, width) for name in ("hidden", "sums", "normed")
        )
        heads = self._heads + self._key_heads
        self._rotated = self._builder.get_rows("rotated", heads * self._size)
        self._attended = self._builder.get_rows("attended", self._heads * self._value_size)
        self._projected = self._builder.get_rows("projected", heads * self._size + self._key_heads * self._value_size)
        self._prefill_kernel = kernels.get_sequence_attention(self._size, self._value_size)
        self._result: torch.Tensor | None = None
        self._angles: Any = None

    def forwards(self) -> Forwards:
        """Return a new `forward` for each layer."""
        return build_forwards(self._layers, self._run_first, self._pass_through)

    def _run_first(
        self,
        plain: Callable[..., torch.Tensor],
        hidden_states: torch.Tensor,
        *positional: Any,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        step: Any = None,
        **others: Any,
    ) -> torch.Tensor:
        angles = position_embeddings
        if not isinstance(step, Step) or angles is None or not self._supports(hidden_states, angles):
            self._result = None
            return plain(hidden_states, *positional, position_embeddings=angles, step=step, **others)
        self._result, self._angles = self._compute_layers(hidden_states, angles, step), angles
        return self._result

    def _pass_through(
        self, plain: Callable[..., torch.Tensor], hidden_states: torch.Tensor, *positional: Any, **others: Any
    ) -> torch.Tensor:
        if hidden_states is not self._result:
            return plain(hidden_states, *positional, **others)
        if others.get("position_embeddings") is not self._angles:
            raise ValueError("layers use different rotary embeddings")
        return hidden_states

    def _supports(self, hidden_states: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> bool:
        shape = (*hidden_states.shape[:2], self._size)
        tensors = hidden_states, *angles
        return (
            len(hidden_states) == 1
            and hidden_states.shape[1] <= MAX_ROWS
            and all(angle.shape == shape for angle in angles)
            and all(tensor.dtype == self._kernels.dtype and tensor.is_contiguous() for tensor in tensors)
        )

    def _compute_layers(
        self, hidden_states: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor], step: Step
    ) -> torch.Tensor:
        """Run the program of a step; return the hidden states, shape (1, tokens, size)."""
        tokens = hidden_states.shape[1]
        # Without a kernel for short chunks, PyTorch computes them as well.
        by_pytorch = bool(step.long) or (self._prefill_kernel is None and bool(step.short))
        short = 0 if self._prefill_kernel is None else len(step.short)
        shape = _StepShape(len(step.cache_writes), len(step.decoding), short, by_pytorch)
        program = self._programs.get(shape)
        if program is None:
            program = self._programs[shape] = self._build_program(shape)
        self._hidden[:tokens] = hidden_states[0]
        program.run(tokens, self._make_arguments(angles, step), step)
        return torch.add(self._hidden[:tokens], self._sums[:tokens])[None]

    def _make_arguments(self, angles: tuple[torch.Tensor, torch.Tensor], step: Step) -> dict[Hashable, int | IntArray]:
        """Return the arguments of the program for one step, by name."""
        cos, sin = angles
        arguments: dict[Hashable, int | IntArray] = {"cos": cos.data_ptr(), "sin": sin.data_ptr()}
        for number, write in enumerate(step.cache_writes):
            arguments |= {
                ("stored tokens", number): len(write.tokens),
                ("stored indices", number): write.tokens.data_ptr(),
                ("stored rows", number): write.rows.data_ptr(),
                ("stored keys", number): write.slab.key_addresses,
                ("stored values", number): write.slab.value_addresses,
            }
        rotated, attended = self._rotated, self._attended
        for number, group in enumerate(step.decoding):
            units, heads_per_unit = group.split_units(self._key_heads)
            first = group.tokens.start
            arguments |= {
                ("units", number): units,
                ("heads per unit", number): heads_per_unit,
                ("large", number): int(group.attended_tokens * self._heads * self._size >= LARGE_ATTENTION),
                ("queries", number): rotated.data_ptr() + first * rotated.stride(0) * rotated.itemsize,
                ("attended", number): attended.data_ptr() + first * attended.stride(0) * attended.itemsize,
                ("indices", number): group.indices.data_ptr(),
                ("positions", number): group.positions.data_ptr(),
                ("capacity", number): group.slab.capacity,
                ("keys", number): group.slab.key_addresses,
                ("values", number): group.slab.value_addresses,
            }
        for number, chunks in enumerate(step.short):
            arguments |= {
                ("chunks", number): len(chunks.descriptors) * self._heads,
                ("descriptors", number): chunks.descriptors.data_ptr(),
                ("prefill keys", number): chunks.slab.key_addresses,
                ("prefill values", number): chunks.slab.value_addresses,
            }
        return arguments

    # The program

    def _build_program(self, shape: _StepShape) -> Program:
        parts: list[Part] = []
        for number, layer in enumerate(self._layers):
            norm = layer.input_layernorm.forward
            parts.append(self._add_norm_call(norm, self._sums, self._hidden) if number else self._norm_call(norm))
            parts += self._projection_calls(layer.self_attn)
            parts += self._attention_calls(shape, number)
            parts += self._builder.build_linear(layer.self_attn.o_proj, self._attended, self._sums)
            parts.append(self._add_norm_call(layer.post_attention_layernorm.forward, self._hidden, self._sums))
            parts += self._feed_forward_calls(layer.mlp)
        return Program(parts, self._runner)

    def _norm_call(self, norm: FusedNorm) -> KernelCall:
        width = len(norm.factors)
        arguments = self._hidden.data_ptr(), norm.factors.data_ptr(), self._normed.data_ptr(), 1, width, width, width
        return KernelCall(
            self._kernels.rms_norm, ROW_COUNT, (*arguments, norm.eps), self._builder.build_large_flag(width)
        )

    def _add_norm_call(self, norm: FusedNorm, more: torch.Tensor, sums: torch.Tensor) -> KernelCall:
        """Add `more` to `sums` in place, and normalize the sum as the next input."""
        width = len(norm.factors)
        arguments = more.data_ptr(), sums.data_ptr(), norm.factors.data_ptr(), self._normed.data_ptr(), width, norm.eps
        return KernelCall(self._kernels.add_rms_norm, ROW_COUNT, arguments, self._builder.build_large_flag(width))

    def _projection_calls(self, attention: Any) -> list[Part]:
        """Project queries, keys and values, and apply rotary embeddings.

        Heads are normalized where the model does that.
        """
        heads, key_heads, size = self._heads, self._key_heads, self._size
        parts = self._builder.build_linear(attention.q_proj.merged.linear, self._normed, self._projected)
        stride = self._projected.shape[1]
        for name, start, number in (("q_norm", 0, heads), ("k_norm", heads, key_heads)):
            norm: FusedNorm | None = vars(getattr(attention, name, None) or nn.Identity()).get("forward")
            if norm is not None:
                address = self._projected.data_ptr() + start * size * self._projected.itemsize
                arguments = address, norm.factors.data_ptr(), address, number, size, stride, stride, norm.eps
                parts.append(
                    KernelCall(
                        self._kernels.rms_norm, ROW_COUNT, arguments, self._builder.build_large_flag(number * size)
                    )
                )
        both = heads + key_heads
        rotated = (
            self._projected.data_ptr(), RunValue("cos"), RunValue("sin"), self._rotated.data_ptr(),
            both, size, stride, both * size,
        )  # fmt: skip
        return [
            *parts,
            KernelCall(self._kernels.rotate, ROW_COUNT, rotated, self._builder.build_large_flag(both * size)),
        ]

    def _attention_calls(self, shape: _StepShape, layer: int) -> list[Part]:
        """Store keys and values, and compute attention."""
        heads, key_heads, size, value_size = self._heads, self._key_heads, self._size, self._value_size
        rotated, projected, parts = self._rotated, self._projected, list[Part]()
        stored = (
            ("stored keys", rotated, heads * size, key_heads * size),
            ("stored values", projected, (heads + key_heads) * size, key_heads * value_size),
        )
        for number in range(shape.slabs):
            for name, rows, start, width in stored:
                write = (
                    rows.data_ptr() + start * rows.itemsize, RunElement((name, number), layer),
                    RunValue(("stored indices", number)), RunValue(("stored rows", number)), width, rows.shape[1],
                )  # fmt: skip
                parts.append(
                    KernelCall(
                        self._kernels.copy_to_slots,
                        RunValue(("stored tokens", number)),
                        write,
                        self._builder.build_large_flag(width),
                    )
                )
        _, scale, window = self._specs[layer]
        for number in range(shape.groups):
            decode = (
                RunValue(("queries", number)),
                RunElement(("keys", number), layer), RunElement(("values", number), layer),
                RunValue(("attended", number)), RunValue(("indices", number)), RunValue(("positions", number)),
                RunValue(("capacity", number)), key_heads, RunValue(("heads per unit", number)), rotated.shape[1],
                window or 0, encode_float(scale),
            )  # fmt: skip
            kernel = self._kernels.get_decode_attention(size, value_size, heads // key_heads)
            parts.append(KernelCall(kernel, RunValue(("units", number)), decode, RunValue(("large", number))))
        for number in range(shape.short):
            assert self._prefill_kernel is not None
            prefill = (
                rotated.data_ptr(),
                RunElement(("prefill keys", number), layer), RunElement(("prefill values", number), layer),
                self._attended.data_ptr(), RunValue(("descriptors", number)), heads, heads // key_heads,
                rotated.shape[1], key_heads * size, key_heads * value_size, heads * value_size, window or 0,
                encode_float(scale),
            )  # fmt: skip
            parts.append(KernelCall(self._prefill_kernel, RunValue(("chunks", number)), prefill))
        return [*parts, partial(self._attend_by_pytorch, layer)] if shape.by_pytorch else parts

    def _attend_by_pytorch(self, layer: int, tokens: int, step: Step) -> None:
        _, scale, window = self._specs[layer]
        query = self._rotated[:tokens, : self._heads * self._size].view(tokens, self._heads, self._size)
        attended = self._attended[:tokens].view(tokens, self._heads, self._value_size)
        short = [chunk for group in step.short for chunk in group.chunks] if self._prefill_kernel is None else []
        for chunk in [*step.long, *short]:
            step.attend_chunk(chunk, layer, query, scale, window, attended)

    def _feed_forward_calls(self, mlp: Any) -> list[Part]:
        gate = mlp.forward
        if not isinstance(gate, FusedGate) or gate.merged is None:
            return [self._builder.build_python_call(mlp, self._normed, self._hidden)]
        both: Any = gate.merged
        size = both.out_features // 2
        gates, gated = self._builder.get_rows("gates", 2 * size), self._builder.get_rows("gated", size)
        first, second = gates.data_ptr(), gates.data_ptr() + size * gates.itemsize
        arguments = first, second, gated.data_ptr(), size, 2 * size, *gate.factors
        return [
            *self._builder.build_linear(both, self._normed, gates),
            KernelCall(gate.kernel, ROW_COUNT, arguments, self._builder.build_large_flag(size)),
            *self._builder.build_linear(gate.down, gated, self._hidden),
        ]


def fused_layers(
    model: nn.Module, shapes: Sequence[LayerShape], specs: Mapping[int, _AttentionSpec], kernels: Kernels
) -> Forwards:
    """Return a new `forward` for each layer; empty if a layer has another structure.

    The caller must verify that the results are the same.
    """
    layers: list[Any] = [module for module in model.modules() if _is_supported_layer(module)]
    uniform = len(set(shapes)) == 1 and len({heads for heads, _, _ in specs.values()}) == 1
    if not uniform or [layer.self_attn.layer_idx for layer in layers] != list(range(len(shapes))):
        return {}
    return FusedLayers(layers, shapes[0], [specs[number] for number in range(len(shapes))], kernels).forwards()


def _is_supported_layer(module: Any) -> bool:
    """Return whether a module is a Llama-like layer whose parts are computed by kernels."""
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
