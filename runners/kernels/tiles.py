"""Weights in panels, for kernels that multiply tiles: some rows with some panels."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from runners.kernels.layout import LANES, PANEL_STEP, PANELS, ROWS, STEP

#: Bytes of inputs that are multiplied with all weights before the next: a part of a core's cache.
_BLOCK = 1 << 19


def whole_tiles(rows: int) -> int:
    """So many rows, filled up to whole tiles."""
    return -(-rows // ROWS) * ROWS


def parts(row_bytes: int, out_features: int, panels: int = PANELS) -> tuple[int, int]:
    """Rows of inputs that are a block, and groups of panels: what is shared by threads is a group for a block."""
    return max(_BLOCK // row_bytes // ROWS, 1) * ROWS, -(-out_features // (LANES * panels))


def whole_panels(outputs: int) -> int:
    """Round a number of outputs up to whole panels."""
    return -(-outputs // LANES) * LANES


def worth_filling(outputs: int) -> bool:
    """Return whether filling up the last panel adds at most an eighth to a layer's outputs."""
    return whole_panels(outputs) - outputs <= outputs // 8


def fill_panels(values: torch.Tensor) -> torch.Tensor:
    """Append zeros to one value for each output, shape (out,), so that there is one for each output of whole panels."""
    return pad(values, (0, whole_panels(len(values)) - len(values)))


def in_panels(weight: torch.Tensor) -> torch.Tensor:
    """Weights in panels; the last panel is filled up with rows of zeros.

    Args:
        weight: shape (out, in), contiguous, rows of whole steps.

    Returns:
        One row of `whole_panels(out) * in` values, at a multiple of 64 bytes.
    """
    out_features, in_features = weight.shape
    depth, values = STEP // weight.itemsize, whole_panels(out_features) * in_features
    room = torch.empty(values + PANEL_STEP // weight.itemsize, dtype=weight.dtype)
    packed = room[-room.data_ptr() % PANEL_STEP // weight.itemsize :][:values]
    panels = packed.view(-1, in_features // depth, LANES, depth)
    full, rest = divmod(out_features, LANES)
    whole, last = weight[: full * LANES], weight[full * LANES :]
    panels[:full] = whole.view(full, LANES, in_features // depth, depth).transpose(1, 2)
    if rest:
        panels[full] = 0
        panels[full, :, :rest] = last.view(rest, in_features // depth, depth).transpose(0, 1)
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
