"""Promises of kernels: they compute the same as PyTorch's operations, and write no other memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from runners.kernels.kernels import Kernels
from runners.kernels.parallel import encode_float
from tests.runners.kernels.compiled import get_kernels

#: Largest difference for one rounding to the type.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
TYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def _compare(result: torch.Tensor, right: torch.Tensor) -> None:
    tolerance = TOLERANCES[result.dtype]
    torch.testing.assert_close(result, right.to(result.dtype), rtol=tolerance, atol=tolerance)


@TYPES
@pytest.mark.parametrize("size", [5, 64, 576])
def test_rms_norm_computes_the_same_as_pytorch(dtype: torch.dtype, size: int) -> None:
    x, weight = torch.randn(7, size).to(dtype), torch.randn(size)
    out = torch.empty_like(x)
    kernel = get_kernels(dtype).rms_norm
    kernel(7, x.data_ptr(), weight.data_ptr(), out.data_ptr(), 1, size, size, size, encode_float(1e-5))
    _compare(out, rms_norm(x.float(), (size,), weight, 1e-5))


@TYPES
def test_rms_norm_of_heads_in_place_changes_no_other_values(dtype: torch.dtype) -> None:
    tokens, heads, size, distance = 3, 2, 8, 29
    x, weight = torch.randn(tokens, distance).to(dtype), torch.randn(size)
    before = x.clone()
    kernel = get_kernels(dtype).rms_norm
    kernel(tokens, x.data_ptr(), weight.data_ptr(), x.data_ptr(), heads, size, distance, distance, encode_float(1e-5))
    own = before[:, : heads * size].float().view(tokens, heads, size)
    _compare(x[:, : heads * size], rms_norm(own, (size,), weight, 1e-5).flatten(1))
    assert torch.equal(x[:, heads * size :], before[:, heads * size :])


@TYPES
def test_add_rms_norm_stores_the_sum_and_its_norm(dtype: torch.dtype) -> None:
    x, more, weight = torch.randn(4, 40).to(dtype), torch.randn(4, 40).to(dtype), torch.randn(40)
    right, out = x + more, torch.empty_like(x)
    kernel = get_kernels(dtype).add_rms_norm
    kernel(4, x.data_ptr(), more.data_ptr(), weight.data_ptr(), out.data_ptr(), 40, encode_float(1e-6))
    _compare(more, right)
    _compare(out, rms_norm(right.float(), (40,), weight, 1e-6))


@TYPES
def test_gate_accepts_both_halves_in_one_tensor(dtype: torch.dtype) -> None:
    both = torch.cat([torch.linspace(-90, 90, 401).expand(2, 401), torch.randn(2, 401)], 1).to(dtype)
    out = torch.empty(2, 401, dtype=dtype)
    up = both.data_ptr() + 401 * both.itemsize
    gate = get_kernels(dtype).gate
    gate(2, both.data_ptr(), up, out.data_ptr(), 401, 802, encode_float(1.0), encode_float(0.0))
    _compare(out, silu(both[:, :401].float()) * both[:, 401:].float())


@TYPES
def test_rotate_computes_rotary_embeddings(dtype: torch.dtype) -> None:
    tokens, heads, size = 3, 2, 10
    x = torch.randn(tokens, heads, size).to(dtype)
    cos, sin = torch.randn(2, tokens, size).to(dtype)
    out = torch.empty_like(x)
    distance = heads * size
    get_kernels(dtype).rotate(
        tokens, x.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr(), heads, size, distance, distance
    )
    exact = x.float()
    half = torch.cat([-exact[..., size // 2 :], exact[..., : size // 2]], -1)
    _compare(out, exact * cos.float()[:, None] + half * sin.float()[:, None])


@TYPES
@pytest.mark.parametrize("large", [True, False], ids=["large", "small"])
@pytest.mark.parametrize("heads_per_unit", [1, 2])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(("size", "value_size", "shared"), [(16, 16, 1), (8, 12, 3), (5, 3, 2)])
def test_decode_attention_uses_the_sequences_slot_up_to_its_token(
    dtype: torch.dtype, size: int, value_size: int, shared: int, window: int | None, heads_per_unit: int, large: bool
) -> None:
    slot_count, capacity, key_heads, scale = 4, 20, 2, 0.4
    keys = torch.randn(slot_count, capacity, key_heads, size).to(dtype)
    values = torch.randn(slot_count, capacity, key_heads, value_size).to(dtype)
    indices, positions = torch.tensor([0, 3, 1]), torch.tensor([0, 19, 11])
    # NaN after each sequence's last token and in the unused slot: the kernel must not read these values.
    for index, position in zip(indices, positions, strict=True):
        keys[index, position + 1 :] = values[index, position + 1 :] = math.nan
    keys[2] = values[2] = math.nan
    query = torch.randn(3, key_heads * shared, size).to(dtype)
    out = torch.empty(3, key_heads * shared, value_size, dtype=dtype)
    get_kernels(dtype).get_decode_attention(size, value_size, shared)(
        3 * key_heads // heads_per_unit,
        query.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(), indices.data_ptr(), positions.data_ptr(),
        capacity, key_heads, heads_per_unit, query.stride(0), window or 0, encode_float(scale),
        large=large,
    )  # fmt: skip
    for number, (index, position) in enumerate(zip(indices, positions, strict=True)):
        end = int(position) + 1
        seen = slice(max(end - window, 0) if window else 0, end)
        right = scaled_dot_product_attention(
            query[number, :, None].float()[None],
            keys[index, seen].transpose(0, 1).float()[None],
            values[index, seen].transpose(0, 1).float()[None],
            scale=scale,
            enable_gqa=True,
        )
        _compare(out[number], right[0, :, 0])


@TYPES
def test_copy_to_slots_writes_only_the_chosen_slots(dtype: torch.dtype) -> None:
    cache, new = torch.zeros(9, 6, dtype=dtype), torch.randn(5, 8).to(dtype)
    sources, slots = torch.tensor([4, 0, 2]), torch.tensor([8, 0, 4])
    get_kernels(dtype).copy_to_slots(3, new.data_ptr(), cache.data_ptr(), sources.data_ptr(), slots.data_ptr(), 6, 8)
    right = torch.zeros_like(cache)
    right[slots] = new[sources, :6]
    assert torch.equal(cache, right)


@TYPES
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_row_with_nan_or_inf_affects_only_its_own_output(dtype: torch.dtype, number: float) -> None:
    x = torch.randn(3, 16).to(dtype)
    x[1, 2] = number
    out, weight = torch.empty_like(x), torch.ones(16)
    kernels = get_kernels(dtype)
    kernels.rms_norm(3, x.data_ptr(), weight.data_ptr(), out.data_ptr(), 1, 16, 16, 16, encode_float(1e-5))
    assert not out[1].isfinite().all()
    _compare(out[[0, 2]], rms_norm(x[[0, 2]].float(), (16,), None, 1e-5))
    kernels.gate(3, x.data_ptr(), x.data_ptr(), out.data_ptr(), 16, 16, encode_float(1.0), encode_float(0.0))
    assert not out[1].isfinite().all()
    _compare(out[[0, 2]], silu(x[[0, 2]].float()) * x[[0, 2]].float())


def test_kernels_support_float32_and_bfloat16() -> None:
    assert [Kernels.supports(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)] == [True, True, False]
