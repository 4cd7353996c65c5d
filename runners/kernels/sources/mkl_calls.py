"""Kernels that call MKL by the address of its function."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runners.kernels.layout import MKL_NOT_TRANSPOSED, MKL_PACKED, MKL_ROW_MAJOR
from runners.kernels.sources.language import FLOAT_LIKE, Code, row_at, take_unit


def multiply(call: Any) -> None:
    """Multiply inputs by packed weights.

    The product is added to the outputs if the last argument is 1, and replaces them if it is 0.
    """
    arguments = carray(call, 10)
    function, inputs, packed, outputs = arguments[2], arguments[3], arguments[4], arguments[5]
    rows, size, in_features, added = arguments[6], arguments[7], arguments[8], np.float32(arguments[9])
    while take_unit(call) < arguments[1]:
        _compute(function, rows, size, in_features, inputs, packed, added, outputs)


def fill(call: Any) -> None:
    """Copy one row of `size` elements to every output row; a unit is an output row."""
    arguments = carray(call, 5)
    row, size = take_unit(call), arguments[4]
    bias = row_at(arguments[3], 0, size, FLOAT_LIKE)
    while row < arguments[1]:
        filled = row_at(arguments[2], row * size, size, FLOAT_LIKE)
        for i in range(size):
            filled[i] = bias[i]
        row = take_unit(call)


@intrinsic
def _compute(
    _context: Any, function: Any, rows: Any, size: Any, in_features: Any, inputs: Any, packed: Any, added: Any,
    outputs: Any,
) -> Code:  # fmt: skip
    """Call cblas_sgemm_compute by its address."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        constant, int_type, address_type, float_type = ir.Constant, ir.IntType(32), ir.IntType(64), ir.FloatType()
        function_address, *sizes = arguments[:4]
        m, n, k = (builder.trunc(one, int_type) for one in sizes)
        names = [constant(int_type, name) for name in (MKL_ROW_MAJOR, MKL_NOT_TRANSPOSED, MKL_PACKED)]
        takes = [*6 * [int_type], address_type, int_type, address_type, int_type, float_type, address_type, int_type]
        entry = builder.inttoptr(function_address, ir.FunctionType(ir.VoidType(), takes).as_pointer())
        x, weights, beta, out = arguments[4:]
        builder.call(entry, [*names, m, n, k, x, k, weights, k, beta, out, n])
        return context.get_dummy_value()

    return types.void(function, rows, size, in_features, inputs, packed, added, outputs), build
