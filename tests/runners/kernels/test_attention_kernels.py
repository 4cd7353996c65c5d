"""Promises of attention by tiles: it computes the same as PyTorch, and sequences do not affect each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from runners.kernels.host_cpu import supports_tiles
from runners.kernels.parallel import encode_float
from tests.runners.kernels.compiled import get_kernels

pytestmark = pytest.mark.skipif(not supports_tiles(), reason="this CPU has no AVX2")

TYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 8e-3)], ids=str)


@TYPES
@pytest.mark.parametrize("window", [None, 4, 70])
@pytest.mark.parametrize(("start", "tokens"), [(0, 1), (0, 19), (3, 16), (40, 7), (0, 64), (9, 130)])
@pytest.mark.parametrize(("size", "value_size", "shared"), [(16, 16, 1), (32, 64, 3)])
def test_each_token_of_a_prefill_chunk_attends_to_its_sequence_up_to_itself(
    dtype: torch.dtype,
    tolerance: float,
    size: int,
    value_size: int,
    shared: int,
    start: int,
    tokens: int,
    window: int | None,
) -> None:
    capacity, key_heads, scale, end = 150, 2, 0.4, start + tokens
    heads = key_heads * shared
    keys = torch.randn(3, capacity, key_heads, size).to(dtype)
    values = torch.randn(3, capacity, key_heads, value_size).to(dtype)
    # NaN after the chunk and in other slots: the chunk must not read these values.
    for cache in (keys, values):
        cache[1, end:] = cache[0] = cache[2] = math.nan
    query = torch.randn(5 + tokens, heads + 1, size).to(dtype)
    out = torch.full((5 + tokens, heads + 1, value_size), -1, dtype=dtype)
    sequences = torch.tensor([[5, capacity, tokens, end, start + 1]])
    attention = get_kernels(dtype).get_sequence_attention(size, value_size)
    assert attention is not None
    attention(
        heads,
        query.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(), sequences.data_ptr(), heads, shared,
        query.stride(0), key_heads * size, key_heads * value_size, out.stride(0), window or 0,
        encode_float(scale),
    )  # fmt: skip
    columns, rows = torch.arange(end), torch.arange(start, end)[:, None]
    right = scaled_dot_product_attention(
        query[None, 5:, :heads].float().transpose(1, 2),
        keys[1:2, :end].float().transpose(1, 2),
        values[1:2, :end].float().transpose(1, 2),
        attn_mask=(columns <= rows) & (columns > rows - (window or end)),
        scale=scale,
        enable_gqa=True,
    )
    right = right[0].transpose(0, 1).to(dtype)
    torch.testing.assert_close(out[5:, :heads], right, atol=tolerance, rtol=tolerance)
    assert (out[:, heads] == -1).all()
    assert (out[:5] == -1).all()


@TYPES
@pytest.mark.parametrize("threads", [1, 2])
def test_each_sequence_of_a_batch_attends_to_all_of_itself_and_nothing_else(
    dtype: torch.dtype, tolerance: float, threads: int
) -> None:
    lengths, heads, size = (7, 1, 70, 16), 3, 32
    rows = torch.randn(sum(lengths) + 2, 3 * heads * size).to(dtype)
    # A sequence with NaN must not affect the others.
    rows[7] = math.nan
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    sequences = torch.tensor([(s, s, n, n, n) for s, n in zip(starts, lengths, strict=True)])
    query, key, value = rows.view(-1, 3, heads, size).unbind(1)
    out = torch.full((len(rows), heads, size), -1, dtype=dtype)
    attention = get_kernels(dtype).get_sequence_attention(size, size)
    assert attention is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        attention(
            len(lengths) * heads,
            query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr(), sequences.data_ptr(), heads, 1,
            query.stride(0), key.stride(0), value.stride(0), out.stride(0), 0, encode_float(0.3),
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    for start, length in zip(starts, lengths, strict=True):
        q, k, v = (part[None, start : start + length].float().transpose(1, 2) for part in (query, key, value))
        right = scaled_dot_product_attention(q, k, v, scale=0.3)[0].transpose(0, 1).to(dtype)
        if length == 1:
            assert out[start].isnan().all()
        else:
            torch.testing.assert_close(out[start : start + length], right, atol=tolerance, rtol=tolerance)
    assert (out[sum(lengths) :] == -1).all()


def test_heads_that_do_not_fill_registers_have_no_kernel() -> None:
    kernels = get_kernels(torch.float32)
    assert kernels.get_sequence_attention(64, 32) is not None
    assert kernels.get_sequence_attention(24, 32) is kernels.get_sequence_attention(32, 8) is None
