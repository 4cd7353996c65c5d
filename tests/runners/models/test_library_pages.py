"""Promise: pages of libraries leave memory after a start, and the libraries still work."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest

from tests.project import ROOT

#: In a process of its own: a process that reads the same libraries brings their pages back.
_GIVEN_BACK = """
import json
import psutil
import torch
from runners.models.library_pages import drop_library_pages

def compute():
    torch.manual_seed(0)
    return torch.nn.Linear(64, 64)(torch.rand(8, 64)).sum().item()

def of_files():
    return psutil.Process().memory_info().shared

answer = compute()
before = of_files()
drop_library_pages()
print(json.dumps({"before": before, "after": of_files(), "same": compute() == answer}))
"""


@pytest.mark.skipif(not psutil.LINUX, reason="libraries are given back on Linux alone")
def test_libraries_leave_memory_and_compute_the_same() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", _GIVEN_BACK], cwd=ROOT, capture_output=True, check=True, timeout=300
    )
    said = json.loads(printed.stdout)
    assert said["after"] < said["before"] / 2
    assert said["same"]
