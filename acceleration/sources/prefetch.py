"""Which weights are asked for while others are multiplied.

The first tile of a unit waits for its weights to come from memory, and those that follow, which find them in the core's
cache, leave memory idle. So each tile asks for its part of the weights of the unit that its thread computes next.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from acceleration.layout import FEW_TILES, PANEL_STEP, STEP
from acceleration.sources.language import OPTIONS

#: How far ahead weights are asked for that no tile before has asked for, in bytes.
AHEAD = 1024


@njit(inline="always", **OPTIONS)
def asked_for(weights: Any, next_weights: Any, row_bytes: Any, tile: Any, tiles: Any, cold: Any) -> Any:
    """What a tile asks for.

    Args:
        weights, next_weights: addresses of those of the tile, and of the unit that comes next.
        row_bytes: of a row of inputs.
        tile, tiles: its number in the unit, and how many there are; few have no time for more than their own.
        cold: 1 in a thread's first unit, whose weights nobody has asked for; else 0.

    Returns:
        An address, and how many bytes from there with each step; the same for each panel, as far apart as panels are.
    """
    if tiles <= FEW_TILES or tile < cold:
        return weights + AHEAD, PANEL_STEP
    stride = -(-PANEL_STEP // (tiles - cold))
    return next_weights + (tile - cold) * (row_bytes // STEP) * stride, stride
