"""What holds for all tests: two of them run at a time on two cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
