"""How far two ways of computing the same may be apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: Of the numbers' size: rounding, not another result. A model in bfloat16 is itself 0.1 from what it is in float32.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}

#: The same of a model in eight bits, where a number that falls to the other side moves those behind it by a hundredth.
_ROUNDING_INT8 = 0.3


def is_rounding(
    results: Sequence[torch.Tensor], right: Sequence[torch.Tensor], dtype: torch.dtype, *, int8: bool = False
) -> bool:
    """Whether all that results differ in is rounding, by their root mean squares.

    Not by what differs most: in bfloat16 the first token of a text may be a third off, in either way.

    Args:
        results, right: of the same shapes.
        dtype: what the model computes in.
        int8: layers are computed in eight bits.
    """
    expected = torch.cat([one.float().flatten() for one in right])
    difference = torch.cat([one.float().flatten() for one in results]) - expected
    tolerance = _ROUNDING_INT8 if int8 else _ROUNDING.get(dtype, 1e-1)
    # Not a number is not less than anything.
    return bool(difference.norm() <= tolerance * expected.norm())
