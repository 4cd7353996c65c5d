"""The promises of the allocator: memory that one layer has freed is there for the next, and weights leave no holes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.project import ROOT

#: Bytes of the largest tensor of the batch that is computed below.
_HEAP_LIMIT = 2000 * 1536 * 4

#: Free bytes that the C library has at hand once a warm model has computed batches of several sizes. The system's count
#: of page faults would say more, but sandboxes do not count them.
_MALLINFO = """\
import ctypes, sys, torch
from torch import nn
from runners.kernels.allocator import keep_freed_memory, separate_large_tensors

class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
"""

_FREE = f"""{_MALLINFO}
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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")
def test_what_a_batch_frees_is_not_taken_from_the_system_again() -> None:
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", _FREE, how], cwd=ROOT)) for how in ("kept", "usual")
    )
    # By itself the C library keeps up to twice the largest block that it has seen freed.
    assert given_back < 2 * _HEAP_LIMIT < kept


#: Free bytes within the heap, once every second of the tensors that were made while a model was loaded is gone.
_HOLES = f"""{_MALLINFO}
keep_freed_memory()
with separate_large_tensors():
    tensors = [torch.zeros(400, 400) for _ in range(40)]
    del tensors[::2]
loaded = mallinfo2().fordblks
tensors += [torch.zeros(400, 400) for _ in range(40)]
del tensors[20::2]
print(loaded, mallinfo2().fordblks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")
def test_what_is_freed_while_a_model_is_loaded_leaves_no_holes_as_it_does_later() -> None:
    loaded, later = map(int, subprocess.check_output([sys.executable, "-c", _HOLES], cwd=ROOT).split())
    assert later - loaded > 10 * 400 * 400 * 4
