"""Kernel that runs the calls of a program in order."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runners.kernels.layout import RECORD_LENGTH
from runners.kernels.sources.language import INT_LIKE, Code, row_at, take_unit


def run_calls(call: Any) -> None:
    """Run the calls of a program; a unit is a whole program."""
    arguments = carray(call, 6)
    region, threads = arguments[4], arguments[5]
    while take_unit(call) < arguments[1]:
        for index in range(arguments[3]):
            record = arguments[2] + index * RECORD_LENGTH * 8
            entry = row_at(record, 0, 3, INT_LIKE)
            entry[2] = 0
            if entry[1] and region:
                _call_in_threads(region, entry[0], record + 16, threads)
            else:
                _call(entry[0], record + 16)


@intrinsic
def _call(_context: Any, function: Any, argument: Any) -> Code:
    """Call the function at an address with one argument."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [address])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(function, argument), build


@intrinsic
def _call_in_threads(_context: Any, region: Any, function: Any, argument: Any, threads: Any) -> Code:
    """Call a function with the same argument in several threads, by GOMP_parallel."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, number = ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, address, number, number])
        values = [arguments[1], arguments[2], builder.trunc(arguments[3], number), ir.Constant(number, 0)]
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(region, function, argument, threads), build
