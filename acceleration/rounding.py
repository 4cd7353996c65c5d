"""How far two ways of computing the same may be apart."""

from __future__ import annotations

import torch

#: Of outputs, relative to the largest: rounding, not another result.
ROUNDING = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}

#: The same of a model in eight bits, where a number that falls to the other side moves those behind it by a hundredth.
ROUNDING_INT8 = 0.3
