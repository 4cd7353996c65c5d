"""Promises of the allocator: layers reuse freed memory, and loading leaves no gaps in the heap."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.project import ROOT

#: Bytes of the largest tensor of the batch in `_FREE_SCRIPT`.
_LARGEST_TENSOR = 2000 * 1536 * 4

#: Start of the scripts. Free bytes of the C library are measured, because sandboxes do not count page faults.
_MALLINFO_SCRIPT = """\
import ctypes, sys, torch
from torch import nn
from runners.kernels.allocator import keep_freed_memory, separate_large_tensors

class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
"""

#: Prints the free bytes at the end of the heap after batches of several sizes.
_FREE_SCRIPT = f"""{_MALLINFO_SCRIPT}
if sys.argv[1] == "kept":
    keep_freed_memory()
torch.set_num_threads(1)
layers = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))
with torch.inference_mode():
    for _ in range(4):
        for rows in (300, 700, 2000, 500):
            states = torch.ones(rows, 384)
            for _ in range(2):
                states = states + layers(states)
print(mallinfo2().keepcost)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_memory_freed_by_a_batch_is_reused_without_returning_to_the_system() -> None:
    kept, default = (
        int(subprocess.check_output([sys.executable, "-c", _FREE_SCRIPT, how], cwd=ROOT)) for how in ("kept", "default")
    )
    # By default the C library keeps up to twice the largest block that was freed.
    assert default < 2 * _LARGEST_TENSOR < kept


#: Prints the free bytes inside the heap after half of the tensors are freed: those created during loading, then others.
_GAPS_SCRIPT = f"""{_MALLINFO_SCRIPT}
keep_freed_memory()
with separate_large_tensors():
    tensors = [torch.zeros(400, 400) for _ in range(40)]
    del tensors[::2]
loaded = mallinfo2().fordblks
tensors += [torch.zeros(400, 400) for _ in range(40)]
del tensors[20::2]
print(loaded, mallinfo2().fordblks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_tensors_freed_during_loading_leave_no_gaps_in_the_heap() -> None:
    loaded, later = map(int, subprocess.check_output([sys.executable, "-c", _GAPS_SCRIPT], cwd=ROOT).split())
    assert later - loaded > 10 * 400 * 400 * 4
