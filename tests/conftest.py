"""What holds for all tests: two of them run at a time on two cores."""

from __future__ import annotations

import os

import pytest
import torch

torch.set_num_threads(1)

# What two tests at a time would measure of the machine says nothing of it.
os.environ["CALIBRATION_SECONDS"] = "0"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make conformance`, which writes a table of answers into docs/."""
    parser.addoption(
        "--write-conformance", action="store_true", help="write the table of docs/kserve-comparison.md anew"
    )
