"""Calls of MKL, by the address of its function."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runners.kernels.layout import MKL_NOT_TRANSPOSED, MKL_PACKED, MKL_ROW_MAJOR
from runners.kernels.sources.language import FLOAT_LIKE, Code, next_unit, row_at


def multiply(call: Any) -> None:
    """The product of inputs with weights that are packed, added to what is there if that is asked for."""
    numbers = carray(call, 10)
    function, inputs, packed, outputs = numbers[2], numbers[3], numbers[4], numbers[5]
    rows, size, in_features, added = numbers[6], numbers[7], numbers[8], np.float32(numbers[9])
    while next_unit(call) < numbers[1]:
        _compute(function, rows, size, in_features, inputs, packed, added, outputs)


def fill(call: Any) -> None:
    """Each row becomes another one, of so many numbers. A unit is a row."""
    numbers = carray(call, 5)
    row, size = next_unit(call), numbers[4]
    given = row_at(numbers[3], 0, size, FLOAT_LIKE)
    while row < numbers[1]:
        filled = row_at(numbers[2], row * size, size, FLOAT_LIKE)
        for i in range(size):
            filled[i] = given[i]
        row = next_unit(call)


@intrinsic
def _compute(
    _context: Any, function: Any, rows: Any, size: Any, in_features: Any, inputs: Any, packed: Any, added: Any,
    outputs: Any,
) -> Code:  # fmt: skip
    """cblas_sgemm_compute, by its address."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, number_type, address, kind = ir.Constant, ir.IntType(32), ir.IntType(64), ir.FloatType()
        where, *sizes = arguments[:4]
        m, n, k = (builder.trunc(one, number_type) for one in sizes)
        names = [number(number_type, name) for name in (MKL_ROW_MAJOR, MKL_NOT_TRANSPOSED, MKL_PACKED)]
        takes = [*6 * [number_type], address, number_type, address, number_type, kind, address, number_type]
        entry = builder.inttoptr(where, ir.FunctionType(ir.VoidType(), takes).as_pointer())
        x, weights, beta, out = arguments[4:]
        builder.call(entry, [*names, m, n, k, x, k, weights, k, beta, out, n])
        return context.get_dummy_value()

    return types.void(function, rows, size, in_features, inputs, packed, added, outputs), build
