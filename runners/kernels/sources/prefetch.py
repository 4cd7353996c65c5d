"""Division of units into tiles, and prefetching of the next unit's weights.

The first tile of a unit waits for its weights from memory. The next tiles find them in the core's cache, and leave
memory idle. So each tile prefetches its part of the weights of the unit that its thread computes next.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from runners.kernels.host_cpu import has_feature
from runners.kernels.layout import LANES, PANEL_STEP_BYTES, STEP_BYTES, TILE_ROWS
from runners.kernels.sources.language import OPTIONS, take_unit

#: Distance in bytes at which a tile prefetches its own weights if no tile before has prefetched them.
AHEAD = 1024

#: With at most this number of tiles, a unit takes less time than its weights take to be read. Prefetching the next
#: unit's weights as well made layers of 8 rows up to a fifth slower without AVX-512 (AMD EPYC).
_FEW_TILES = 1 if has_feature("avx512f") else 4


@njit(inline="always", **OPTIONS)
def locate_unit(unit: Any, rows: Any, block: Any, groups: Any, group: Any, width: Any) -> Any:
    """Return a unit's first row, number of tiles, first panel, and last panel plus 1.

    Args:
        block: rows of a unit.
        groups: number of groups of panels.
        group: panels of a group.
        width: outputs of a row.
    """
    first, panel = unit // groups * block, unit % groups * group
    return first, -(-min(block, rows - first) // TILE_ROWS), panel, min(panel + group, width // LANES)


@njit(inline="always", **OPTIONS)
def take_following_unit(call: Any, unit: Any, units: Any, tiles: Any, groups: Any) -> Any:
    """Take the next unit early, to prefetch its weights.

    Returns:
        The next unit, and the distance of its weights in groups of panels. If there are few tiles, no unit is taken, so
        that any free thread can take it, and the result is the unit itself.
    """
    next_one = take_unit(call) if tiles > _FEW_TILES else unit
    return next_one, min(next_one, units - 1) % groups - unit % groups


@njit(inline="always", **OPTIONS)
def choose_prefetch(weights: Any, next_weights: Any, row_bytes: Any, tile: Any, tiles: Any, cold: Any) -> Any:
    """Choose the weights that a tile prefetches.

    Args:
        weights: address of all weights.
        next_weights: the same address, shifted from this unit's weights to the next unit's.
        row_bytes: bytes of a row of inputs.
        tile, tiles: index of the tile in the unit, and number of tiles. With few tiles, each prefetches its own
            weights.
        cold: 1 in a thread's first unit, whose weights are not prefetched yet; else 0.

    Returns:
        An address to use in place of `weights`, and the bytes of each panel that are prefetched with each step.
    """
    if tiles <= _FEW_TILES or tile < cold:
        return weights + AHEAD, PANEL_STEP_BYTES
    stride = -(-PANEL_STEP_BYTES // (tiles - cold))
    return next_weights + (tile - cold) * (row_bytes // STEP_BYTES) * stride, stride
