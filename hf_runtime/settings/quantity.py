"""Quantities as Kubernetes writes them: 500m of a CPU, 4Gi of memory.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_QUANTITY = re.compile(
    r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?:(?P<suffix>[mkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?\d+))?"
)
_FACTORS = {
    "m": Decimal("0.001"),
    "k": Decimal(1000),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("MGTPE", start=2)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}


def parse_quantity(value: Any) -> float:
    """Return a Kubernetes quantity as a number of CPUs, bytes or devices.

    Raises:
        ValueError: the value is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) and value is not True else None
    if match is None:
        raise ValueError("must be a quantity such as 500m, 2 or 4Gi")
    return float(
        Decimal(match["number"]) * _FACTORS.get(match["suffix"], 1) * Decimal(10) ** int(match["exponent"] or 0)
    )


def with_byte_unit(value: Any) -> Any:
    """Append the B that pydantic's ByteSize requires and Kubernetes omits: 4Gi becomes 4GiB."""
    return f"{value}B" if isinstance(value, str) and re.fullmatch(r"[\d.]+[KMGTPE]i", value) else value


Quantity = Annotated[float, BeforeValidator(parse_quantity), Field(ge=0)]
