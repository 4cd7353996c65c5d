"""Attention of a step: each token reads its own sequence's keys and values, wherever they are.

A step is one row of tokens without padding: one token of each running sequence, and pieces of prompts. All layers but
attention compute tokens one by one anyway, so only attention needs to know whose they are; transformers' attention
interface is the place to tell it (https://huggingface.co/docs/transformers/attention_interface).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from generation.cache import LayerShape, Place, Slab

#: The name under which transformers knows `attend`.
NAME = "sequences"


class Unsupported(Exception):
    """The model asks more of attention than is computed here."""


@dataclass(frozen=True, slots=True)
class _Decoding:
    """Sequences of one slab that each get one token.

    Attributes:
        tokens: where they are in the step.
        whole: they are all sequences of the slab, in order.
        indices, positions: place of each sequence in the slab, and of the token in the sequence, shape (sequences,).
    """

    slab: Slab
    tokens: slice
    whole: bool
    indices: torch.Tensor
    positions: torch.Tensor
    longest: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """A piece of one prompt: tokens of the step, which are `place.length` and the following of the sequence."""

    place: Place
    tokens: slice


class Step:
    """What one forward pass computes.

    Attributes:
        input_ids, position_ids: shape (1, tokens).
        ends: indices of each piece's last token: first those of `decoding`, in order, then those of `reading`.
    """

    def __init__(
        self,
        decoding: Sequence[tuple[Place, int]],
        reading: Sequence[tuple[Place, Sequence[int]]],
        device: torch.device,
    ) -> None:
        """
        Args:
            decoding: sequences with the one token that is next in each, those of one slab together, by index.
            reading: sequences with the next tokens of their prompts.
        """
        ids = [token for _, token in decoding]
        positions = [place.length for place, _ in decoding]
        self._decoding: list[_Decoding] = []
        self._reading: list[_Reading] = []
        self._prepared: dict[Any, torch.Tensor | None] = {}
        start = 0
        while start < len(decoding):
            slab = decoding[start][0].slab
            end = start
            while end < len(decoding) and decoding[end][0].slab is slab:
                end += 1
            self._decoding.append(_decoding(slab, [place for place, _ in decoding[start:end]], start))
            start = end
        ends = list(range(len(decoding)))
        for place, tokens in reading:
            self._reading.append(_Reading(place, slice(len(ids), len(ids) + len(tokens))))
            ids.extend(tokens)
            positions.extend(range(place.length, place.length + len(tokens)))
            ends.append(len(ids) - 1)
        self.input_ids = torch.tensor([ids], device=device)
        self.position_ids = torch.tensor([positions], device=device)
        self.ends = torch.tensor(ends, device=device)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Write the new keys and values, and compute attention.

        Args:
            query, key, value: shape (heads, tokens, size); keys and values may have fewer heads.
            window: a token sees no further back, itself included.

        Returns:
            Shape (tokens, heads, value size).
        """
        heads, tokens = query.shape[:2]
        out = query.new_empty(tokens, heads, value.shape[-1])
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        for group in self._decoding:
            out[group.tokens] = self._decode(
                group, layer, query[group.tokens], key[group.tokens], value[group.tokens], scale, window
            )
        for piece in self._reading:
            out[piece.tokens] = self._read(
                piece, layer, query[piece.tokens], key[piece.tokens], value[piece.tokens], scale, window
            )
        return out

    def _decode(
        self,
        group: _Decoding,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        keys, values = group.slab.keys[layer], group.slab.values[layer]
        device = keys.device
        flat = self._on(device, group.indices * group.slab.capacity + group.positions, (id(group), "flat"))
        keys.view(-1, *keys.shape[2:]).index_copy_(0, flat, key)
        values.view(-1, *values.shape[2:]).index_copy_(0, flat, value)
        used = len(group.slab.places)
        indices = self._on(device, group.indices, (id(group), "indices"))
        if not group.whole:
            everyone = query.new_zeros(used, *query.shape[1:])
            everyone[indices] = query
            query = everyone
        # Heads that share keys go together as if they were positions: nothing is repeated.
        grouped = query.reshape(used, keys.shape[2], -1, query.shape[-1])
        attended = scaled_dot_product_attention(
            grouped,
            keys[:used, : group.longest].transpose(1, 2),
            values[:used, : group.longest].transpose(1, 2),
            attn_mask=self._decoding_mask(group, device, window),
            scale=scale,
        ).flatten(1, 2)
        return attended if group.whole else attended[indices]

    def _read(
        self,
        piece: _Reading,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        place = piece.place
        keys, values = place.slab.keys[layer][place.index], place.slab.values[layer][place.index]
        start, end = place.length, place.length + len(query)
        keys[start:end] = key
        values[start:end] = value
        mask = self._reading_mask(start, end, keys.device, window)
        keys, values = keys[:end], values[:end]
        shared = query.shape[1] // keys.shape[1]
        if shared > 1 and mask is not None and keys.device.type != "cpu":
            # Elsewhere, the kernels that need no memory for all scores do not take a mask and shared heads at once.
            keys, values, shared = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1), 1
        attended = scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys.transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=shared > 1,
        )
        return attended[0].transpose(0, 1)

    def _on(self, device: torch.device, tensor: torch.Tensor, name: Any) -> torch.Tensor:
        """A tensor on a layer's device, copied there once."""
        found = self._prepared.get((name, device))
        if found is None:
            found = self._prepared[name, device] = tensor.to(device)
        return found

    def _decoding_mask(self, group: _Decoding, device: torch.device, window: int | None) -> torch.Tensor | None:
        """Shape (places, 1, 1, longest): true where a sequence has a token that is seen; None if all are."""
        name = (id(group), device, window)
        if name not in self._prepared:
            shortest = int(group.positions.min()) + 1
            if group.whole and shortest == group.longest and (window is None or window >= group.longest):
                self._prepared[name] = None
            else:
                last = torch.zeros(len(group.slab.places), 1, dtype=torch.long)
                last[group.indices, 0] = group.positions
                columns = torch.arange(group.longest)
                seen = columns <= last
                if window is not None:
                    seen &= columns > last - window
                self._prepared[name] = seen[:, None, None].to(device)
        return self._prepared[name]

    def _reading_mask(self, start: int, end: int, device: torch.device, window: int | None) -> torch.Tensor | None:
        """Shape (end - start, end): true where a token sees another; None if it is the plain triangle."""
        if start == 0 and (window is None or window >= end):
            return None
        name = (start, end, device, window)
        if name not in self._prepared:
            rows, columns = torch.arange(start, end, device=device)[:, None], torch.arange(end, device=device)
            seen = columns <= rows
            if window is not None:
                seen &= columns > rows - window
            self._prepared[name] = seen
        return self._prepared[name]


def _decoding(slab: Slab, places: Sequence[Place], start: int) -> _Decoding:
    indices = [place.index for place in places]
    return _Decoding(
        slab=slab,
        tokens=slice(start, start + len(places)),
        whole=indices == list(range(len(slab.places))),
        indices=torch.tensor(indices),
        positions=torch.tensor([place.length for place in places]),
        longest=max(place.length for place in places) + 1,
    )


class Probe:
    """Takes the place of a `Step` to see what a model's layers keep of a token."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}
        self.windows = False

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Note the shapes; attention itself is that of a single prompt."""
        self.layers[layer] = LayerShape(key.shape[0], key.shape[-1], value.shape[-1], key.dtype, key.device)
        self.windows |= window is not None
        attended = scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, scale=scale, enable_gqa=query.shape[0] != key.shape[0]
        )
        return attended[0].transpose(0, 1)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    step: Step | Probe | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer.

    Args:
        query, key, value: shape (1, heads, tokens, size).

    Raises:
        Unsupported: the layer asks for what is not computed here.
    """
    if step is None:
        raise Unsupported("the model does not hand on what it is called with")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if others.get(name) is not None:
            raise Unsupported(f"its attention has {name}")
    if getattr(module, "is_cross_attention", False) or not getattr(module, "is_causal", True):
        raise Unsupported("its attention is not causal")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = step.attend(module.layer_idx, query[0], key[0], value[0], scale, sliding_window)
    return attended[None], None


AttentionInterface.register(NAME, attend)
