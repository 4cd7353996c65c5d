"""Attention of one step, in which each token attends to its own sequence in the KV cache.

A step is one row of tokens without padding: one token of each sequence in decode, and chunks of prompts. All other
layers compute each token by itself, so only attention needs to know the sequence of each token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from runners.engines.generate.cache import CacheSlot, Slab
from runners.kernels.parallel import encode_float

if TYPE_CHECKING:
    from runners.kernels.kernels import Kernels

#: Devices that prefill prompts one by one. On others a launch for each prompt takes longer than its computation.
_ONE_BY_ONE = frozenset({"cpu"})

#: Multiplications of a decode batch in one layer from which on all threads share the work.
LARGE = 1 << 17

#: Attention scores per head up to which a prefill chunk is short.
_SHORT_CHUNK = 1 << 15

#: Prompts up to this number of tokens are prefilled together; a longer prompt with prompts up to twice as long.
_SHORT_PROMPT = 16


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """Tokens of the step whose keys and values one slab stores.

    Attributes:
        tokens: their indices in the step, shape (tokens,).
        covers_step: they are all tokens of the step, in order.
        rows: row of each in the slab viewed as (slots * capacity) rows, shape (tokens,).
    """

    slab: Slab
    tokens: torch.Tensor
    covers_step: bool
    rows: torch.Tensor


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Decode batch: sequences of one slab that each get one token.

    Attributes:
        tokens: their range in the step.
        covers_slab: they are all sequences of the slab, in order.
        indices, positions: slot index of each sequence, and index of the token in the sequence, shape (sequences,).
        max_length: tokens of the longest sequence, the new one included.
        attended_tokens: tokens that they attend to, summed over the sequences.
    """

    slab: Slab
    tokens: slice
    covers_slab: bool
    indices: torch.Tensor
    positions: torch.Tensor
    max_length: int
    attended_tokens: int

    def split_units(self, key_heads: int) -> tuple[int, int]:
        """Return the number of work units, and the key heads that each computes.

        A unit computes all heads if there are enough sequences for all threads, so that it reads memory in order.
        """
        sequences = len(self.indices)
        heads_per_unit = key_heads if sequences >= 2 * torch.get_num_threads() else 1
        return sequences * key_heads // heads_per_unit, heads_per_unit


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Chunk of one prompt: the tokens from `start` to `end` of the sequence in slot `index`.

    Attributes:
        tokens: their range in the step.
    """

    slab: Slab
    index: int
    start: int
    end: int
    tokens: slice

    @property
    def is_short(self) -> bool:
        """True if a kernel computes the chunk faster, together with others, than PyTorch does."""
        return (self.end - self.start) * self.end <= _SHORT_CHUNK


@dataclass(frozen=True, slots=True)
class ShortChunks:
    """Short prefill chunks in one slab.

    Attributes:
        descriptors: arguments of the prefill kernel for each chunk, shape (chunks, 5).
    """

    slab: Slab
    chunks: Sequence[PrefillChunk]
    descriptors: torch.Tensor


@dataclass(frozen=True, slots=True)
class _PrefillBatch:
    """First chunks of prompts of similar length, computed as one padded batch.

    Attributes:
        padded: indices of their tokens in the step, shape (prompts, longest prompt). Padding repeats the first token;
            causal attention never attends to it, because it comes last.
        real: indices into the flattened `padded` of tokens that are no padding, shape (tokens,).
        tokens: indices of these tokens in the step, shape (tokens,).
    """

    chunks: Sequence[PrefillChunk]
    padded: torch.Tensor
    real: torch.Tensor
    tokens: torch.Tensor


class Step:
    """Input of one forward pass: single tokens of sequences in decode and chunks of prompts.

    Attributes:
        cache_writes: where the tokens' keys and values are stored, by slab.
        decoding: sequences that get one token, by slab.
        short, long: prefill chunks; the short ones by slab.
        input_ids, position_ids: shape (1, tokens).
        ends: index of each sequence's last token: first those of `decoding`, in order, then those of `prefill`.
    """

    def __init__(
        self,
        decoding: Sequence[tuple[CacheSlot, int]],
        prefill: Sequence[tuple[CacheSlot, Sequence[int]]],
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        """
        Args:
            decoding: sequences with their next token, grouped by slab and in the order of their slots.
            prefill: sequences with the next tokens of their prompts.
            kernels: store keys and values and compute attention; None for PyTorch.
        """
        ids = [token for _, token in decoding]
        positions = [slot.length for slot, _ in decoding]
        slots = [slot for slot, _ in decoding]
        chunks: list[PrefillChunk] = []
        for slot, tokens in prefill:
            start, end = slot.length, slot.length + len(tokens)
            chunks.append(PrefillChunk(slot.slab, slot.index, start, end, slice(len(ids), len(ids) + len(tokens))))
            ids.extend(tokens)
            positions.extend(range(start, end))
            slots.extend([slot] * len(tokens))
        self._kernels, self._kernel_dtype = kernels, kernels.dtype if kernels is not None else None
        self.cache_writes = _group_writes(slots, positions)
        self.decoding = _group_decoding([slot for slot, _ in decoding])
        batched = device.type not in _ONE_BY_ONE
        self._batched, one_by_one = _batch_prompts(chunks) if batched else ([], chunks)
        self.short = _group_short(one_by_one) if kernels is not None else []
        self.long = [chunk for chunk in one_by_one if kernels is None or not chunk.is_short]
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
        """Store the new keys and values, and compute attention.

        Args:
            query, key, value: shape (heads, tokens, size); keys and values may have fewer heads.
            window: number of tokens that each token attends to, itself included; None for all before it.
            out: tensor to fill and return; None for a new one.

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
        """Compute the same as `attend`, with arguments of shape (tokens, heads, size)."""
        if out is None:
            out = query.new_empty(*query.shape[:2], value.shape[-1])
        for write in self.cache_writes:
            self._store(write, layer, key, value)
        for group in self.decoding:
            if not self._decode_by_kernel(group, layer, query, scale, window, out):
                out[group.tokens] = self._decode(group, layer, query[group.tokens], scale, window)
        for prompts in self._batched:
            if window is None or window >= prompts.padded.shape[1]:
                tokens = self._move_to(out.device, prompts.tokens)
                out.index_copy_(0, tokens, self._prefill_together(prompts, query, key, value, scale))
            else:
                for chunk in prompts.chunks:
                    self.attend_chunk(chunk, layer, query, scale, window, out)
        for chunks in self.short:
            if not self._prefill_by_kernel(chunks, layer, query, scale, window, out):
                for chunk in chunks.chunks:
                    self.attend_chunk(chunk, layer, query, scale, window, out)
        for chunk in self.long:
            self.attend_chunk(chunk, layer, query, scale, window, out)
        return out

    def attend_chunk(
        self, chunk: PrefillChunk, layer: int, query: torch.Tensor, scale: float, window: int | None, out: torch.Tensor
    ) -> None:
        """Compute the attention of a chunk whose keys and values are stored already, with PyTorch."""
        out[chunk.tokens] = self._prefill(chunk, layer, query[chunk.tokens], scale, window)

    def _store(self, write: CacheWrite, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        keys, values = write.slab.keys[layer], write.slab.values[layer]
        if self._kernels is not None and self._fits(key) and self._fits(value):
            for new, stored in ((key, keys), (value, values)):
                self._kernels.copy_to_slots(
                    len(write.tokens),
                    new.data_ptr(), stored.data_ptr(), write.tokens.data_ptr(), write.rows.data_ptr(),
                    new.shape[1] * new.shape[2], new.stride(0), large=False,
                )  # fmt: skip
            return
        rows = self._move_to(keys.device, write.rows)
        if not write.covers_step:
            tokens = self._move_to(keys.device, write.tokens)
            key, value = key[tokens], value[tokens]
        keys.view(-1, *keys.shape[2:]).index_copy_(0, rows, key)
        values.view(-1, *values.shape[2:]).index_copy_(0, rows, value)

    def _decode_by_kernel(
        self, group: DecodeBatch, layer: int, query: torch.Tensor, scale: float, window: int | None, out: torch.Tensor
    ) -> bool:
        """Fill the batch's tokens of `out` with a kernel; return False if there is none for it."""
        if self._kernels is None or not (self._fits(query) and out.is_contiguous()):
            return False
        keys, values = group.slab.keys[layer], group.slab.values[layer]
        first = group.tokens.start
        _, heads, size = query.shape
        key_heads, value_size = keys.shape[2], values.shape[-1]
        units, heads_per_unit = group.split_units(key_heads)
        stride = query.stride(0)
        self._kernels.get_decode_attention(size, value_size, heads // key_heads)(
            units,
            query.data_ptr() + first * stride * query.itemsize, keys.data_ptr(), values.data_ptr(),
            out.data_ptr() + first * heads * value_size * out.itemsize,
            group.indices.data_ptr(), group.positions.data_ptr(), group.slab.capacity,
            key_heads, heads_per_unit, stride, window or 0, encode_float(scale),
            large=group.attended_tokens * heads * size >= LARGE,
        )  # fmt: skip
        return True

    def _prefill_by_kernel(
        self, group: ShortChunks, layer: int, query: torch.Tensor, scale: float, window: int | None, out: torch.Tensor
    ) -> bool:
        """Fill the chunks' tokens of `out` with a kernel; return False if there is none for them."""
        if self._kernels is None or not (self._fits(query) and out.is_contiguous()):
            return False
        keys, values = group.slab.keys[layer], group.slab.values[layer]
        heads, (key_heads, size), value_size = query.shape[1], keys.shape[2:], values.shape[-1]
        kernel = self._kernels.get_sequence_attention(size, value_size)
        if kernel is None:
            return False
        kernel(
            len(group.descriptors) * heads,
            query.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(), group.descriptors.data_ptr(),
            heads, heads // key_heads, query.stride(0), key_heads * size, key_heads * value_size, heads * value_size,
            window or 0, encode_float(scale),
        )  # fmt: skip
        return True

    def _decode(
        self, group: DecodeBatch, layer: int, query: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        keys, values = group.slab.keys[layer], group.slab.values[layer]
        used = len(group.slab.slots)
        indices = self._move_to(keys.device, group.indices)
        if not group.covers_slab:
            all_queries = query.new_zeros(used, *query.shape[1:])
            all_queries[indices] = query
            query = all_queries
        mask = self._decode_mask(group, keys.device, keys.dtype, window)
        columns = group.max_length if mask is None else mask.shape[-1]
        # Query heads that share a key head are laid out as positions, so that keys need not be repeated.
        grouped = query.reshape(used, keys.shape[2], -1, query.shape[-1])
        attended = scaled_dot_product_attention(
            grouped,
            keys[:used, :columns].transpose(1, 2),
            values[:used, :columns].transpose(1, 2),
            attn_mask=mask,
            scale=scale,
        ).flatten(1, 2)
        return attended if group.covers_slab else attended[indices]

    def _fits(self, heads: torch.Tensor) -> bool:
        """Return whether kernels can read a tensor of shape (tokens, heads, size)."""
        return heads.dtype == self._kernel_dtype and heads.stride()[1:] == (heads.shape[2], 1)

    def _prefill(
        self, chunk: PrefillChunk, layer: int, query: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        keys = chunk.slab.keys[layer][chunk.index, : chunk.end]
        values = chunk.slab.values[layer][chunk.index, : chunk.end]
        mask = self._prefill_mask(chunk.start, chunk.end, keys.device, window)
        return _compute_attention(query[None], keys[None], values[None], mask, scale)[0]

    def _prefill_together(
        self, prompts: _PrefillBatch, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        padded = self._move_to(query.device, prompts.padded)
        attended = _compute_attention(query[padded], key[padded], value[padded], None, scale)
        return attended.flatten(0, 1)[self._move_to(query.device, prompts.real)]

    def _move_to(self, device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
        """Return one of the step's tensors on a layer's device; copy it there once."""
        name = (id(tensor), device)
        found = self._prepared.get(name)
        if found is None:
            found = self._prepared[name] = tensor.to(device)
        return found

    def _decode_mask(
        self, group: DecodeBatch, device: torch.device, dtype: torch.dtype, window: int | None
    ) -> torch.Tensor | None:
        """Return the attention mask of a decode batch; None if all sequences attend to all columns.

        Boolean on a CPU. Elsewhere 0 and -inf, with the columns padded to a multiple of 16: PyTorch's kernels would
        otherwise convert the mask in each layer.

        Returns:
            Shape (slots, 1, 1, columns).
        """
        name = (id(group), device, dtype, window)
        if name not in self._prepared:
            shortest = int(group.positions.min()) + 1
            if group.covers_slab and shortest == group.max_length and (window is None or window >= group.max_length):
                self._prepared[name] = None
            else:
                on_cpu = device.type == "cpu"
                last = torch.zeros(len(group.slab.slots), 1, dtype=torch.long)
                last[group.indices, 0] = group.positions
                by_sixteens = min(-(-group.max_length // 16) * 16, group.slab.capacity)
                columns = torch.arange(group.max_length if on_cpu else by_sixteens)
                visible = columns <= last
                if window is not None:
                    visible &= columns > last - window
                mask = visible if on_cpu else torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf)
                self._prepared[name] = mask[:, None, None].to(device)
        return self._prepared[name]

    def _prefill_mask(self, start: int, end: int, device: torch.device, window: int | None) -> torch.Tensor | None:
        """Return the attention mask of a chunk; None if it is plainly causal.

        Returns:
            Shape (end - start, end), true where a token attends to another.
        """
        if start == 0 and (window is None or window >= end):
            return None
        name = (start, end, device, window)
        if name not in self._prepared:
            rows, columns = torch.arange(start, end, device=device)[:, None], torch.arange(end, device=device)
            visible = columns <= rows
            if window is not None:
                visible &= columns > rows - window
            self._prepared[name] = visible
        return self._prepared[name]


def _compute_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Compute attention over shapes (prompts, tokens, heads, size); causal without a mask."""
    shared = query.shape[2] // keys.shape[2]
    if shared > 1 and keys.device.type != "cpu" and (mask is not None or keys.dtype == torch.float32):
        # On a GPU, the memory-efficient kernels accept a mask or float32, but not together with shared heads.
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


def _group_writes(slots: Sequence[CacheSlot], positions: Sequence[int]) -> list[CacheWrite]:
    """Group the tokens of the step by the slab that stores them."""
    slabs: defaultdict[int, list[int]] = defaultdict(list)
    for token, slot in enumerate(slots):
        slabs[id(slot.slab)].append(token)
    writes = []
    for tokens in slabs.values():
        slab = slots[tokens[0]].slab
        rows = torch.tensor([slots[token].index * slab.capacity + positions[token] for token in tokens])
        writes.append(CacheWrite(slab, torch.tensor(tokens), len(slabs) == 1, rows))
    return writes


def _group_decoding(slots: Sequence[CacheSlot]) -> list[DecodeBatch]:
    """Group sequences that get one token by slab; those of one slab must be adjacent."""
    groups = []
    start = 0
    while start < len(slots):
        slab, end = slots[start].slab, start
        while end < len(slots) and slots[end].slab is slab:
            end += 1
        indices = [slot.index for slot in slots[start:end]]
        lengths = [slot.length for slot in slots[start:end]]
        groups.append(
            DecodeBatch(
                slab=slab,
                tokens=slice(start, end),
                covers_slab=indices == list(range(len(slab.slots))),
                indices=torch.tensor(indices),
                positions=torch.tensor(lengths),
                max_length=max(lengths) + 1,
                attended_tokens=sum(lengths) + len(lengths),
            )
        )
        start = end
    return groups


def _group_short(chunks: Sequence[PrefillChunk]) -> list[ShortChunks]:
    """Group the short chunks by slab."""
    slabs: defaultdict[int, list[PrefillChunk]] = defaultdict(list)
    for chunk in chunks:
        if chunk.is_short:
            slabs[id(chunk.slab)].append(chunk)
    return [ShortChunks(group[0].slab, group, _describe_chunks(group)) for group in slabs.values()]


def _describe_chunks(chunks: Sequence[PrefillChunk]) -> torch.Tensor:
    """Return the kernel's arguments for each chunk, shape (chunks, 5).

    They are its first token in the step, the first row of its slot, its number of tokens, its end in the sequence and
    the number of tokens that its first token attends to.
    """
    return torch.tensor(
        [(p.tokens.start, p.index * p.slab.capacity, p.end - p.start, p.end, p.start + 1) for p in chunks]
    )


def _batch_prompts(chunks: Sequence[PrefillChunk]) -> tuple[list[_PrefillBatch], list[PrefillChunk]]:
    """Batch first chunks of prompts of similar length; return the batches and other chunks."""
    prompts_by_size: defaultdict[int, list[PrefillChunk]] = defaultdict(list)
    for chunk in chunks:
        if chunk.start == 0:
            prompts_by_size[max(chunk.end - 1, _SHORT_PROMPT - 1).bit_length()].append(chunk)
    groups = [group for group in prompts_by_size.values() if len(group) > 1]
    grouped = {chunk.tokens.start for group in groups for chunk in group}
    return [_make_prefill_batch(group) for group in groups], [p for p in chunks if p.tokens.start not in grouped]


def _make_prefill_batch(chunks: Sequence[PrefillChunk]) -> _PrefillBatch:
    first, lengths = torch.tensor([p.tokens.start for p in chunks]), torch.tensor([p.end for p in chunks])
    columns = torch.arange(int(lengths.max()))
    real = columns < lengths[:, None]
    padded = (first[:, None] + columns) * real + first[:, None] * ~real
    return _PrefillBatch(chunks, padded, real.flatten().nonzero()[:, 0], padded[real])
