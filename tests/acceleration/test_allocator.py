"""The promise of the allocator: memory that one layer has freed is there for the next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

#: Pages that the system had to find while a warm model computed batches of several sizes.
_FAULTS = """\
import resource, sys, torch
from torch import nn
from acceleration.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
torch.set_num_threads(1)
layers = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))
with torch.inference_mode():
    for number in range(8):
        if number == 4:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for rows in (300, 700, 2000, 500):
            states = torch.ones(rows, 384)
            for _ in range(2):
                states = states + layers(states)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")
def test_what_a_batch_frees_is_not_taken_from_the_system_again() -> None:
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", _FAULTS, how], cwd=_ROOT)) for how in ("kept", "usual")
    )
    assert 4 * kept < given_back
