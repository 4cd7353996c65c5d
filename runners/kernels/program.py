"""Run a list of kernels from one compiled loop, without Python in between.

Calling a kernel from Python takes as long as computing one token with it. So a program stores the calls and their
arguments once. A run updates the few arguments that have changed, and calls all kernels without Python's lock.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, cast

import numpy as np
import torch

from runners.kernels.compiler import Compiler
from runners.kernels.kernel_source import RUN_CALLS
from runners.kernels.layout import RECORD_LENGTH
from runners.kernels.parallel import ParallelKernel, find_parallel_region

#: Array of int64.
IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class RunValue:
    """Argument that each run sets: a named value plus a fixed offset."""

    name: Hashable
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ValueFromRows:
    """Argument that is computed from the number of rows of a run.

    Attributes:
        name: identifies `compute`; arguments of equal names are computed once.
        compute: computes the argument from the number of rows.
    """

    name: Hashable
    compute: Callable[[int], int] = field(compare=False)


@dataclass(frozen=True, slots=True)
class RunElement:
    """Argument that each run sets: one element of a named array."""

    name: Hashable
    index: int


Argument = int | RunValue | RunElement | ValueFromRows

#: The number of rows itself.
ROW_COUNT = ValueFromRows("rows", int)


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Kernel with its arguments.

    Attributes:
        units: units of work.
        large: 1 to share the work among threads, 0 to compute with one thread.
    """

    kernel: ParallelKernel
    units: Argument
    arguments: Sequence[Argument]
    large: Argument = 1


class Scratch:
    """Tensors for intermediate results of calls.

    They are mapped directly from the system: pages that are never written cost no memory, and all of it is returned to
    the system at the end. The C library would keep it.

    Args:
        rows: largest number of rows of a run; a multiple of 8, because kernels compute whole tiles.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._tensors: dict[tuple[str, int, torch.dtype], torch.Tensor] = {}

    def get_rows(self, name: str, width: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of shape (rows, width); the same arguments return the same tensor."""
        kind = name, width, dtype
        if kind not in self._tensors:
            memory = mmap(-1, self.rows * width * dtype.itemsize, MAP_PRIVATE | MAP_ANONYMOUS)
            self._tensors[kind] = torch.frombuffer(memory, dtype=dtype).view(self.rows, width)
        return self._tensors[kind]


class ProgramRunner:
    """Compiled loop that runs the calls of a program."""

    def __init__(self, compiler: Compiler) -> None:
        self._kernel = compiler.get_kernel(RUN_CALLS)
        region = find_parallel_region()
        self._region: int = 0 if region is None else ctypes.cast(region, ctypes.c_void_p).value or 0

    def __call__(self, records: int, number: int) -> None:
        """Run consecutive calls.

        Args:
            records: address of the first call.
            number: number of calls.
        """
        threads = torch.get_num_threads()
        self._kernel(1, records, number, self._region if threads > 1 else 0, threads)


class Program:
    """List of kernel calls and Python functions.

    Args:
        parts: calls and functions in order; functions are called with a run's number of rows and its context.
    """

    def __init__(self, parts: Sequence[KernelCall | Callable[[int, Any], None]], runner: ProgramRunner) -> None:
        self._runner = runner
        calls = [part for part in parts if isinstance(part, KernelCall)]
        self._records = np.zeros((len(calls), RECORD_LENGTH), np.int64)
        self._arguments = self._records.reshape(-1)
        positions: defaultdict[RunValue | RunElement | ValueFromRows, list[int]] = defaultdict(list)
        for number, call in enumerate(calls):
            fields = call.kernel.address, call.large, 0, call.units, *call.arguments
            for position, argument in enumerate(fields, number * RECORD_LENGTH):
                if isinstance(argument, int):
                    self._arguments[position] = argument
                else:
                    positions[argument].append(position)
        self._from_rows = {
            argument: np.array(at) for argument, at in positions.items() if isinstance(argument, ValueFromRows)
        }
        #: By name: the positions of the arguments, and the offset or array index of each.
        self._run_values = _group_by_name(
            (one.name, one.offset, at) for one, at in positions.items() if isinstance(one, RunValue)
        )
        self._run_elements = _group_by_name(
            (one.name, one.index, at) for one, at in positions.items() if isinstance(one, RunElement)
        )
        self._rows = 0
        self._steps: list[tuple[int, int] | Callable[[int, Any], None]] = []
        address, done = self._records.ctypes.data, 0
        for is_call, group in groupby(parts, lambda part: isinstance(part, KernelCall)):
            run: list[Any] = list(group)
            self._steps += [(address + done * RECORD_LENGTH * 8, len(run))] if is_call else run
            done += len(run) if is_call else 0

    def run(self, rows: int, values: Mapping[Hashable, int | IntArray], context: Any) -> None:
        """Run all parts.

        Args:
            rows: number of rows.
            values: value of each `RunValue` and array of each `RunElement`, by name.
            context: passed to Python functions.
        """
        if rows != self._rows:
            for argument, positions in self._from_rows.items():
                self._arguments[positions] = argument.compute(rows)
            self._rows = rows
        for name, (positions, offsets) in self._run_values.items():
            self._arguments[positions] = values[name] + offsets
        for name, (positions, indices) in self._run_elements.items():
            self._arguments[positions] = cast(IntArray, values[name])[indices]
        for step in self._steps:
            if isinstance(step, tuple):
                self._runner(*step)
            else:
                step(rows, context)


def _group_by_name(arguments: Iterable[tuple[Hashable, int, list[int]]]) -> dict[Hashable, tuple[IntArray, IntArray]]:
    """Group arguments by name; return their positions, and the offset or index of each."""
    found: defaultdict[Hashable, list[tuple[int, int]]] = defaultdict(list)
    for name, number, positions in arguments:
        found[name] += [(position, number) for position in positions]
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in found.items()}
