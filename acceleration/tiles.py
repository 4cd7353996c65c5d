"""Weights in panels, for kernels that multiply tiles: some rows with some panels."""

from __future__ import annotations

import torch

from acceleration.layout import LANES, PANEL_STEP, PANELS, ROWS, STEP

#: Bytes of inputs that are multiplied with all weights before the next: a part of a core's cache.
_BLOCK = 1 << 19


def whole_tiles(rows: int) -> int:
    """So many rows, filled up to whole tiles."""
    return -(-rows // ROWS) * ROWS


def parts(row_bytes: int, out_features: int, panels: int = PANELS) -> tuple[int, int]:
    """Rows of inputs that are a block, and groups of panels: what is shared by threads is a group for a block."""
    return max(_BLOCK // row_bytes // ROWS, 1) * ROWS, -(-out_features // (LANES * panels))


def in_panels(weight: torch.Tensor) -> torch.Tensor:
    """Weights of shape (out, in), whose rows fill whole steps, in panels.

    Returns:
        One row, at a multiple of 64 bytes.
    """
    out_features, in_features = weight.shape
    depth = STEP // weight.itemsize
    room = torch.empty(weight.numel() + PANEL_STEP // weight.itemsize, dtype=weight.dtype)
    packed = room[-room.data_ptr() % PANEL_STEP // weight.itemsize :][: weight.numel()]
    panels = packed.view(out_features // LANES, in_features // depth, LANES, depth)
    panels.copy_(weight.view(out_features // LANES, LANES, in_features // depth, depth).transpose(1, 2))
    return packed


def rows_of_panels(packed: torch.Tensor, in_features: int, rows: torch.Tensor) -> torch.Tensor:
    """Rows of the weights that were put `in_panels`.

    Args:
        rows: their numbers, of any shape.

    Returns:
        Shape (*shape of rows, in_features).
    """
    depth = STEP // packed.itemsize
    panels = packed.view(-1, in_features // depth, LANES, depth)
    return panels[rows // LANES, :, rows % LANES].flatten(-2)
