"""Attention of a step: each token reads its own sequence's keys and values, wherever they are.

A step is one row of tokens without padding: one token of each running sequence, and pieces of prompts. All layers but
attention compute tokens one by one anyway, so only attention needs to know whose they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from runners.engines.generate.cache import CacheSlot, Slab

if TYPE_CHECKING:
    from runners.kernels.kernels import Kernels

#: Devices that read prompts one by one. Others take longer to be told of each than to compute it.
_ONE_BY_ONE = frozenset({"cpu"})

#: Numbers that a layer's queries are multiplied with, all together, from which on all threads share the work.
LARGE = 1 << 17

#: Scores of a head up to which a piece of a prompt is short.
_SHORT_PIECE = 1 << 15

#: Prompts of at most so many tokens are read together, and longer ones with those up to twice as long.
_SHORT = 16


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """Where a slab keeps tokens of the step.

    Attributes:
        tokens: which of them, shape (tokens,).
        every: all of them, in order.
        places: of each, shape (tokens,), in a slab whose places are one row.
    """

    slab: Slab
    tokens: torch.Tensor
    every: bool
    places: torch.Tensor


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Sequences of one slab that each get one token.

    Attributes:
        tokens: where they are in the step.
        whole: they are all sequences of the slab, in order.
        indices, positions: place of each sequence in the slab, and of the token in the sequence, shape (sequences,).
        read: tokens that they see, all together.
    """

    slab: Slab
    tokens: slice
    whole: bool
    indices: torch.Tensor
    positions: torch.Tensor
    longest: int
    read: int

    def units(self, key_heads: int) -> tuple[int, int]:
        """Units of attention, and heads of keys in each: all of them, where there are enough sequences for all threads,
        so that memory is read in order."""
        sequences = len(self.indices)
        at_once = key_heads if sequences >= 2 * torch.get_num_threads() else 1
        return sequences * key_heads // at_once, at_once


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """A piece of one prompt: tokens of the step, which are those of the sequence from `start` to `end`."""

    slab: Slab
    index: int
    start: int
    end: int
    tokens: slice

    @property
    def short(self) -> bool:
        """Kernels read it with others, sooner than PyTorch, which is made for long ones."""
        return (self.end - self.start) * self.end <= _SHORT_PIECE


@dataclass(frozen=True, slots=True)
class ShortChunks:
    """Short pieces of prompts in one slab.

    Attributes:
        texts: of each what a kernel of texts is told, shape (pieces, 5).
    """

    slab: Slab
    chunks: Sequence[PrefillChunk]
    texts: torch.Tensor


@dataclass(frozen=True, slots=True)
class _PrefillBatch:
    """Beginnings of prompts of like length.

    Attributes:
        padded: where their tokens are in the step, shape (prompts, longest); tokens of others for padding, which causal
            attention never looks ahead to.
        real: which of `padded`, as one row, are no padding, shape (tokens,).
        tokens: where those are in the step, shape (tokens,).
    """

    chunks: Sequence[PrefillChunk]
    padded: torch.Tensor
    real: torch.Tensor
    tokens: torch.Tensor


class Step:
    """What one forward pass computes.

    Attributes:
        writing: where its tokens are kept, by slab.
        decoding: sequences that get one token, by slab.
        short, long: pieces of prompts, by slab and one by one.
        input_ids, position_ids: shape (1, tokens).
        ends: indices of each piece's last token: first those of `decoding`, in order, then those of `reading`.
    """

    def __init__(
        self,
        decoding: Sequence[tuple[CacheSlot, int]],
        reading: Sequence[tuple[CacheSlot, Sequence[int]]],
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        """
        Args:
            decoding: sequences with the one token that is next in each, those of one slab together, by index.
            reading: sequences with the next tokens of their prompts.
            kernels: to write keys and values with, and for attention of sequences that get a token.
        """
        ids = [token for _, token in decoding]
        positions = [slot.length for slot, _ in decoding]
        places = [slot for slot, _ in decoding]
        chunks: list[PrefillChunk] = []
        for slot, tokens in reading:
            start, end = slot.length, slot.length + len(tokens)
            chunks.append(PrefillChunk(slot.slab, slot.index, start, end, slice(len(ids), len(ids) + len(tokens))))
            ids.extend(tokens)
            positions.extend(range(start, end))
            places.extend([slot] * len(tokens))
        self._kernels, self._kernel_dtype = kernels, kernels.dtype if kernels is not None else None
        self.writing = _written(places, positions)
        self.decoding = _decoded([slot for slot, _ in decoding])
        together = device.type not in _ONE_BY_ONE
        self._together, one_by_one = _begun(chunks) if together else ([], chunks)
        self.short = _short(one_by_one) if kernels is not None else []
        self.long = [chunk for chunk in one_by_one if kernels is None or not chunk.short]
        self._prepared: dict[Any, torch.Tensor | None] = {}
        self.input_ids = torch.tensor([ids], device=device)
        self.position_ids = torch.tensor([positions], device=device)
        self.ends = torch.tensor([*range(len(decoding)), *(chunk.tokens.stop - 1 for chunk in chunks)], device=device)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write the new keys and values, and compute attention.

        Args:
            query, key, value: shape (heads, tokens, size); keys and values may have fewer heads.
            window: a token sees no further back, itself included.
            out: shape of what is returned, to be filled with it.

        Returns:
            Shape (tokens, heads, value size).
        """
        return self.attend_tokens(
            layer, query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), scale, window, out
        )

    def attend_tokens(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The same with shapes (tokens, heads, size)."""
        if out is None:
            out = query.new_empty(*query.shape[:2], value.shape[-1])
        for writing in self.writing:
            self._write(writing, layer, key, value)
        for group in self.decoding:
            if not self._decoded_by_kernel(group, layer, query, scale, window, out):
                out[group.tokens] = self._decode(group, layer, query[group.tokens], scale, window)
        for prompts in self._together:
            if window is None or window >= prompts.padded.shape[1]:
                tokens = self._on(out.device, prompts.tokens)
                out.index_copy_(0, tokens, self._read_together(prompts, query, key, value, scale))
            else:
                for chunk in prompts.chunks:
                    self.read(chunk, layer, query, scale, window, out)
        for chunks in self.short:
            if not self._read_by_kernel(chunks, layer, query, scale, window, out):
                for chunk in chunks.chunks:
                    self.read(chunk, layer, query, scale, window, out)
        for chunk in self.long:
            self.read(chunk, layer, query, scale, window, out)
        return out

    def read(
        self, chunk: PrefillChunk, layer: int, query: torch.Tensor, scale: float, window: int | None, out: torch.Tensor
    ) -> None:
        """Attention of a piece whose keys and values have been written, by PyTorch."""
        out[chunk.tokens] = self._read(chunk, layer, query[chunk.tokens], scale, window)

    def _write(self, writing: CacheWrite, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        keys, values = writing.slab.keys[layer], writing.slab.values[layer]
        if self._kernels is not None and self._fits(key) and self._fits(value):
            for new, kept in ((key, keys), (value, values)):
                self._kernels.keep(
                    len(writing.tokens),
                    new.data_ptr(), kept.data_ptr(), writing.tokens.data_ptr(), writing.places.data_ptr(),
                    new.shape[1] * new.shape[2], new.stride(0), large=False,
                )  # fmt: skip
            return
        places = self._on(keys.device, writing.places)
        if not writing.every:
            tokens = self._on(keys.device, writing.tokens)
            key, value = key[tokens], value[tokens]
        keys.view(-1, *keys.shape[2:]).index_copy_(0, places, key)
        values.view(-1, *values.shape[2:]).index_copy_(0, places, value)

    def _decoded_by_kernel(
        self, group: DecodeBatch, layer: int, query: torch.Tensor, scale: float, window: int | None, out: torch.Tensor
    ) -> bool:
        """Whether there is a kernel for it; if so, its tokens of `out` are computed."""
        if self._kernels is None or not (self._fits(query) and out.is_contiguous()):
            return False
        keys, values = group.slab.keys[layer], group.slab.values[layer]
        first = group.tokens.start
        _, heads, size = query.shape
        key_heads, value_size = keys.shape[2], values.shape[-1]
        units, at_once = group.units(key_heads)
        distance = query.stride(0)
        self._kernels.attend(size, value_size, heads // key_heads)(
            units,
            query.data_ptr() + first * distance * query.itemsize, keys.data_ptr(), values.data_ptr(),
            out.data_ptr() + first * heads * value_size * out.itemsize,
            group.indices.data_ptr(), group.positions.data_ptr(), group.slab.capacity,
            key_heads, at_once, distance, window or 0, self._kernels.bits(scale),
            large=group.read * heads * size >= LARGE,
        )  # fmt: skip
        return True

    def _read_by_kernel(
        self, group: ShortChunks, layer: int, query: torch.Tensor, scale: float, window: int | None, out: torch.Tensor
    ) -> bool:
        """Whether there is a kernel for them; if so, their tokens of `out` are computed."""
        if self._kernels is None or not (self._fits(query) and out.is_contiguous()):
            return False
        keys, values = group.slab.keys[layer], group.slab.values[layer]
        heads, (key_heads, size), value_size = query.shape[1], keys.shape[2:], values.shape[-1]
        kernel = self._kernels.texts(size, value_size)
        if kernel is None:
            return False
        kernel(
            len(group.texts) * heads,
            query.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(), group.texts.data_ptr(),
            heads, heads // key_heads, query.stride(0), key_heads * size, key_heads * value_size, heads * value_size,
            window or 0, self._kernels.bits(scale),
        )  # fmt: skip
        return True

    def _decode(
        self, group: DecodeBatch, layer: int, query: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        keys, values = group.slab.keys[layer], group.slab.values[layer]
        used = len(group.slab.places)
        indices = self._on(keys.device, group.indices)
        if not group.whole:
            everyone = query.new_zeros(used, *query.shape[1:])
            everyone[indices] = query
            query = everyone
        mask = self._decoding_mask(group, keys.device, keys.dtype, window)
        columns = group.longest if mask is None else mask.shape[-1]
        # Heads that share keys go together as if they were positions: nothing is repeated.
        grouped = query.reshape(used, keys.shape[2], -1, query.shape[-1])
        attended = scaled_dot_product_attention(
            grouped,
            keys[:used, :columns].transpose(1, 2),
            values[:used, :columns].transpose(1, 2),
            attn_mask=mask,
            scale=scale,
        ).flatten(1, 2)
        return attended if group.whole else attended[indices]

    def _fits(self, heads: torch.Tensor) -> bool:
        """Whether kernels can read it: shape (tokens, heads, size)."""
        return heads.dtype == self._kernel_dtype and heads.stride()[1:] == (heads.shape[2], 1)

    def _read(
        self, chunk: PrefillChunk, layer: int, query: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        keys = chunk.slab.keys[layer][chunk.index, : chunk.end]
        values = chunk.slab.values[layer][chunk.index, : chunk.end]
        mask = self._reading_mask(chunk.start, chunk.end, keys.device, window)
        return _attention(query[None], keys[None], values[None], mask, scale)[0]

    def _read_together(
        self, prompts: _PrefillBatch, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        padded = self._on(query.device, prompts.padded)
        attended = _attention(query[padded], key[padded], value[padded], None, scale)
        return attended.flatten(0, 1)[self._on(query.device, prompts.real)]

    def _on(self, device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
        """One of the step's tensors on a layer's device, copied there once."""
        name = (id(tensor), device)
        found = self._prepared.get(name)
        if found is None:
            found = self._prepared[name] = tensor.to(device)
        return found

    def _decoding_mask(
        self, group: DecodeBatch, device: torch.device, dtype: torch.dtype, window: int | None
    ) -> torch.Tensor | None:
        """Shape (places, 1, 1, columns): where a sequence has a token that is seen; None if all have all of them.

        On a CPU true and false. Elsewhere 0 and -inf, in columns by sixteens: what kernels would otherwise make of it
        anew in each layer.
        """
        name = (id(group), device, dtype, window)
        if name not in self._prepared:
            shortest = int(group.positions.min()) + 1
            if group.whole and shortest == group.longest and (window is None or window >= group.longest):
                self._prepared[name] = None
            else:
                on_cpu = device.type == "cpu"
                last = torch.zeros(len(group.slab.places), 1, dtype=torch.long)
                last[group.indices, 0] = group.positions
                by_sixteens = min(-(-group.longest // 16) * 16, group.slab.capacity)
                columns = torch.arange(group.longest if on_cpu else by_sixteens)
                seen = columns <= last
                if window is not None:
                    seen &= columns > last - window
                mask = seen if on_cpu else torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
                self._prepared[name] = mask[:, None, None].to(device)
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


def _attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Shapes (prompts, tokens, heads, size); causal without a mask."""
    shared = query.shape[2] // keys.shape[2]
    if shared > 1 and keys.device.type != "cpu" and (mask is not None or keys.dtype == torch.float32):
        # Elsewhere, the kernels that need no memory for all scores do not take these and shared heads at once.
        keys, values, shared = keys.repeat_interleave(shared, 2), values.repeat_interleave(shared, 2), 1
    attended = scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=shared > 1,
    )
    return attended.transpose(1, 2)


def _written(places: Sequence[CacheSlot], positions: Sequence[int]) -> list[CacheWrite]:
    """Where each token of the step is kept."""
    slabs: defaultdict[int, list[int]] = defaultdict(list)
    for token, slot in enumerate(places):
        slabs[id(slot.slab)].append(token)
    writing = []
    for tokens in slabs.values():
        slab = places[tokens[0]].slab
        row = torch.tensor([places[token].index * slab.capacity + positions[token] for token in tokens])
        writing.append(CacheWrite(slab, torch.tensor(tokens), len(slabs) == 1, row))
    return writing


def _decoded(places: Sequence[CacheSlot]) -> list[DecodeBatch]:
    """Sequences that get a token, by slab; those of one are given together."""
    groups = []
    start = 0
    while start < len(places):
        slab, end = places[start].slab, start
        while end < len(places) and places[end].slab is slab:
            end += 1
        indices = [slot.index for slot in places[start:end]]
        lengths = [slot.length for slot in places[start:end]]
        groups.append(
            DecodeBatch(
                slab=slab,
                tokens=slice(start, end),
                whole=indices == list(range(len(slab.places))),
                indices=torch.tensor(indices),
                positions=torch.tensor(lengths),
                longest=max(lengths) + 1,
                read=sum(lengths) + len(lengths),
            )
        )
        start = end
    return groups


def _short(chunks: Sequence[PrefillChunk]) -> list[ShortChunks]:
    """Those that are short, by slab."""
    slabs: defaultdict[int, list[PrefillChunk]] = defaultdict(list)
    for chunk in chunks:
        if chunk.short:
            slabs[id(chunk.slab)].append(chunk)
    return [ShortChunks(of_slab[0].slab, of_slab, _texts(of_slab)) for of_slab in slabs.values()]


def _texts(chunks: Sequence[PrefillChunk]) -> torch.Tensor:
    return torch.tensor(
        [(p.tokens.start, p.index * p.slab.capacity, p.end - p.start, p.end, p.start + 1) for p in chunks]
    )


def _begun(chunks: Sequence[PrefillChunk]) -> tuple[list[_PrefillBatch], list[PrefillChunk]]:
    """Beginnings of several prompts of like length, and what else is read."""
    alike: defaultdict[int, list[PrefillChunk]] = defaultdict(list)
    for chunk in chunks:
        if chunk.start == 0:
            alike[max(chunk.end - 1, _SHORT - 1).bit_length()].append(chunk)
    groups = [group for group in alike.values() if len(group) > 1]
    grouped = {chunk.tokens.start for group in groups for chunk in group}
    return [_prefill_batch(group) for group in groups], [p for p in chunks if p.tokens.start not in grouped]


def _prefill_batch(chunks: Sequence[PrefillChunk]) -> _PrefillBatch:
    first, lengths = torch.tensor([p.tokens.start for p in chunks]), torch.tensor([p.end for p in chunks])
    columns = torch.arange(int(lengths.max()))
    real = columns < lengths[:, None]
    padded = (first[:, None] + columns) * real + first[:, None] * ~real
    return _PrefillBatch(chunks, padded, real.flatten().nonzero()[:, 0], padded[real])
