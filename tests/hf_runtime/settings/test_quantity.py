"""Promise: quantities have the same meaning as in Kubernetes."""

from __future__ import annotations

import pytest

from hf_runtime.settings.quantity import parse_quantity


@pytest.mark.parametrize(
    ("written", "meant"),
    [("500m", 0.5), ("2", 2), (2, 2), (0.5, 0.5), ("1k", 1000), ("4Gi", 4 * 2**30), ("4G", 4e9), ("1e3", 1000)],
)
def test_quantities_are_parsed_as_in_kubernetes(written: str | float, meant: float) -> None:
    assert parse_quantity(written) == meant


@pytest.mark.parametrize("written", ["", "4 Gi", "4GB", "-1", "many", None, True, []])
def test_strings_that_are_no_quantity_are_refused(written: object) -> None:
    with pytest.raises(ValueError, match="must be a quantity"):
        parse_quantity(written)
