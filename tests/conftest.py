"""Environment and options of all tests; two of them run at a time on two cores."""

from __future__ import annotations

import os

import pytest
import torch

torch.set_num_threads(1)

# Timings taken while two tests run in parallel describe the load and not the machine.
os.environ["CALIBRATION_SECONDS"] = "0"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make conformance`, which writes a table of answers into docs/."""
    parser.addoption(
        "--write-conformance", action="store_true", help="write the table of docs/kserve-comparison.md anew"
    )
