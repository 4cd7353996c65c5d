"""Units of tiles, and which weights are asked for while others are multiplied.

The first tile of a unit waits for its weights to come from memory, and those that follow, which find them in the core's
cache, leave memory idle. So each tile asks for its part of the weights of the unit that its thread computes next.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from runners.kernels.host_cpu import compiles_for
from runners.kernels.layout import LANES, PANEL_STEP, ROWS, STEP
from runners.kernels.sources.language import OPTIONS, next_unit

#: How far ahead weights are asked for that no tile before has asked for, in bytes.
AHEAD = 1024

#: So many tiles of a unit take less time than their weights take to come from memory. Asking for the next unit's, too,
#: had layers of 8 rows take up to a fifth longer without AVX-512 (AMD EPYC).
_FEW_TILES = 1 if compiles_for("avx512f") else 4


@njit(inline="always", **OPTIONS)
def unit_at(unit: Any, rows: Any, block: Any, groups: Any, group: Any, width: Any) -> Any:
    """A unit's first row, its number of tiles, its first panel, and the one behind its last.

    Args:
        block: rows of a unit.
        groups, group: of panels, how many there are, and the panels of each.
        width: outputs of a row.
    """
    first, panel = unit // groups * block, unit % groups * group
    return first, -(-min(block, rows - first) // ROWS), panel, min(panel + group, width // LANES)


@njit(inline="always", **OPTIONS)
def followed_by(call: Any, unit: Any, units: Any, tiles: Any, groups: Any) -> Any:
    """The next unit, taken now for its weights to be asked for, and how many groups of panels away those are.

    Few tiles leave it to whoever is free first: then it is the unit itself.
    """
    following = next_unit(call) if tiles > _FEW_TILES else unit
    return following, min(following, units - 1) % groups - unit % groups


@njit(inline="always", **OPTIONS)
def asked_for(weights: Any, next_weights: Any, row_bytes: Any, tile: Any, tiles: Any, cold: Any) -> Any:
    """What a tile asks for.

    Args:
        weights, next_weights: addresses of all, and of what is for the next unit where those are for this one.
        row_bytes: of a row of inputs.
        tile, tiles: its number in the unit, and how many there are; few have no time for more than their own.
        cold: 1 in a thread's first unit, whose weights nobody has asked for; else 0.

    Returns:
        An address in place of that of all weights, and how many bytes of each panel are asked for with each step.
    """
    if tiles <= _FEW_TILES or tile < cold:
        return weights + AHEAD, PANEL_STEP
    stride = -(-PANEL_STEP // (tiles - cold))
    return next_weights + (tile - cold) * (row_bytes // STEP) * stride, stride
