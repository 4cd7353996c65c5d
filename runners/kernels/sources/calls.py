"""Calls of kernels, one after the other."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runners.kernels.layout import RECORD
from runners.kernels.sources.language import INT_LIKE, Code, next_unit, row_at


def run(call: Any) -> None:
    numbers = carray(call, 6)
    region, threads = numbers[4], numbers[5]
    while next_unit(call) < numbers[1]:
        for number in range(numbers[3]):
            record = numbers[2] + number * RECORD * 8
            entry = row_at(record, 0, 3, INT_LIKE)
            entry[2] = 0
            if entry[1] and region:
                _call_by_threads(region, entry[0], record + 16, threads)
            else:
                _call(entry[0], record + 16)


@intrinsic
def _call(_context: Any, function: Any, argument: Any) -> Code:
    """Call what is at an address with one argument."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [address])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(function, argument), build


@intrinsic
def _call_by_threads(_context: Any, region: Any, function: Any, argument: Any, threads: Any) -> Code:
    """GOMP_parallel: have so many threads call a function with the same argument."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, number = ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, address, number, number])
        given = [arguments[1], arguments[2], builder.trunc(arguments[3], number), ir.Constant(number, 0)]
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(region, function, argument, threads), build
