"""Largest difference between results of a plain and an optimized model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: Largest relative difference that counts as rounding. In bfloat16, a model's own difference from float32 is 0.1.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}

#: The same for a model in int8, where rounding one value to the other side changes later values by 1 %.
_ROUNDING_INT8 = 0.3


def is_within_rounding(
    outputs: Sequence[torch.Tensor], expected_outputs: Sequence[torch.Tensor], dtype: torch.dtype, *, int8: bool = False
) -> bool:
    """Return whether the root mean square of the difference is as small as rounding.

    The largest difference is not used: in bfloat16, the first token of a sequence may differ by a third.

    Args:
        outputs, expected_outputs: outputs of the same shapes.
        dtype: type that the model computes in.
        int8: linear layers are computed in int8.
    """
    expected = torch.cat([one.float().flatten() for one in expected_outputs])
    difference = torch.cat([one.float().flatten() for one in outputs]) - expected
    tolerance = _ROUNDING_INT8 if int8 else _ROUNDING.get(dtype, 1e-1)
    # False if the difference is NaN.
    return bool(difference.norm() <= tolerance * expected.norm())
