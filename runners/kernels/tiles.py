"""Panels of weights, for kernels that multiply tiles: a few rows with a few panels."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from runners.kernels.layout import LANES, PANEL_STEP_BYTES, STEP_BYTES, TILE_PANELS, TILE_ROWS

#: Bytes of a block of inputs, which is multiplied by all weights before the next: part of a core's cache.
_BLOCK = 1 << 19


def round_up_to_tiles(rows: int) -> int:
    """Round a number of rows up to whole tiles."""
    return -(-rows // TILE_ROWS) * TILE_ROWS


def divide_layer(row_bytes: int, out_features: int, panels: int = TILE_PANELS) -> tuple[int, int]:
    """Divide a layer into units of work: a unit is a block of rows with a group of panels.

    Returns:
        The rows of a block, and the number of groups.
    """
    return max(_BLOCK // row_bytes // TILE_ROWS, 1) * TILE_ROWS, -(-out_features // (LANES * panels))


def round_up_to_panels(outputs: int) -> int:
    """Round a number of outputs up to whole panels."""
    return -(-outputs // LANES) * LANES


def is_worth_padding(outputs: int) -> bool:
    """Return whether filling up the last panel adds at most an eighth to a layer's outputs."""
    return round_up_to_panels(outputs) - outputs <= outputs // 8


def pad_to_panels(values: torch.Tensor) -> torch.Tensor:
    """Pad values of shape (out,), one per output, with zeros to whole panels."""
    return pad(values, (0, round_up_to_panels(len(values)) - len(values)))


def pack_panels(weight: torch.Tensor) -> torch.Tensor:
    """Pack weights into panels; the last panel is padded with rows of zeros.

    Args:
        weight: shape (out, in), contiguous, rows of whole steps.

    Returns:
        One row of `round_up_to_panels(out) * in` values, at a multiple of 64 bytes.
    """
    out_features, in_features = weight.shape
    depth, values = STEP_BYTES // weight.itemsize, round_up_to_panels(out_features) * in_features
    buffer = torch.empty(values + PANEL_STEP_BYTES // weight.itemsize, dtype=weight.dtype)
    packed = buffer[-buffer.data_ptr() % PANEL_STEP_BYTES // weight.itemsize :][:values]
    panels = packed.view(-1, in_features // depth, LANES, depth)
    full, rest = divmod(out_features, LANES)
    whole, last = weight[: full * LANES], weight[full * LANES :]
    panels[:full] = whole.view(full, LANES, in_features // depth, depth).transpose(1, 2)
    if rest:
        panels[full] = 0
        panels[full, :, :rest] = last.view(rest, in_features // depth, depth).transpose(0, 1)
    return packed


def gather_rows(packed: torch.Tensor, in_features: int, rows: torch.Tensor) -> torch.Tensor:
    """Gather rows of weights that `pack_panels` packed.

    Args:
        rows: indices of the rows, of any shape.

    Returns:
        Shape (*shape of rows, in_features).
    """
    depth = STEP_BYTES // packed.itemsize
    panels = packed.view(-1, in_features // depth, LANES, depth)
    return panels[rows // LANES, :, rows % LANES].flatten(-2)
