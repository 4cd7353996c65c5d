"""Kernels that are called one after the other, with nothing of Python between them.

Python takes as long to call a kernel as a kernel takes for one token. What is called with what is written down once; a
run sets what has changed, which is little, and goes through it without Python's lock.
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
from runners.kernels.layout import RECORD
from runners.kernels.parallel import ParallelKernel, parallel_region
from runners.kernels.source import RUN

#: Whole numbers of 64 bits.
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Given:
    """An argument that each run is told: the number of a name, or so much behind it."""

    name: Hashable
    offset: int = 0


@dataclass(frozen=True, slots=True)
class OfRows:
    """An argument that follows from the number of rows of a run.

    Attributes:
        name: another for each that is computed otherwise.
    """

    name: Hashable
    compute: Callable[[int], int] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Element:
    """An argument that each run is told with others: one of the numbers of a name."""

    name: Hashable
    index: int


Argument = int | Given | Element | OfRows

#: The number of rows itself.
ROWS = OfRows("rows", int)


@dataclass(frozen=True, slots=True)
class KernelCall:
    """A kernel with what it is given.

    Attributes:
        units: of work.
        large: worth to be shared by threads; 0 if not.
    """

    kernel: ParallelKernel
    units: Argument
    arguments: Sequence[Argument]
    large: Argument = 1


class Scratch:
    """Tensors that calls write to and read from, for as many rows as a run has at most.

    Memory is taken when it is first written to, so that what is never used costs none, and all of it is given back at
    their end: the C library would keep it.

    Args:
        rows: at most; a multiple of 8, to which kernels fill up.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._tensors: dict[tuple[str, int, torch.dtype], torch.Tensor] = {}

    def rows_of(self, name: str, width: int, dtype: torch.dtype) -> torch.Tensor:
        """Shape (rows, width); the same for all who ask for the same."""
        kind = name, width, dtype
        if kind not in self._tensors:
            memory = mmap(-1, self.rows * width * dtype.itemsize, MAP_PRIVATE | MAP_ANONYMOUS)
            self._tensors[kind] = torch.frombuffer(memory, dtype=dtype).view(self.rows, width)
        return self._tensors[kind]


class ProgramRunner:
    """Runs calls that are written down."""

    def __init__(self, compiler: Compiler) -> None:
        self._kernel = compiler.kernel(RUN)
        region = parallel_region()
        self._region: int = 0 if region is None else ctypes.cast(region, ctypes.c_void_p).value or 0

    def __call__(self, records: int, number: int) -> None:
        """Run so many calls from the one at an address on."""
        threads = torch.get_num_threads()
        self._kernel(1, records, number, self._region if threads > 1 else 0, threads)


class Program:
    """Calls, and between them what only Python can do.

    Args:
        parts: in order; what is no `KernelCall` is called with the number of rows and the context of a run.
    """

    def __init__(self, parts: Sequence[KernelCall | Callable[[int, Any], None]], runner: ProgramRunner) -> None:
        self._runner = runner
        calls = [part for part in parts if isinstance(part, KernelCall)]
        self._records = np.zeros((len(calls), RECORD), np.int64)
        self._numbers = self._records.reshape(-1)
        places: defaultdict[Given | Element | OfRows, list[int]] = defaultdict(list)
        for number, call in enumerate(calls):
            given = call.kernel.address, call.large, 0, call.units, *call.arguments
            for place, argument in enumerate(given, number * RECORD):
                if isinstance(argument, int):
                    self._numbers[place] = argument
                else:
                    places[argument].append(place)
        self._of_rows = {argument: np.array(at) for argument, at in places.items() if isinstance(argument, OfRows)}
        #: For each name where its numbers go, and which of them, or how far behind it.
        self._given = _by_name((one.name, one.offset, at) for one, at in places.items() if isinstance(one, Given))
        self._elements = _by_name((one.name, one.index, at) for one, at in places.items() if isinstance(one, Element))
        self._rows = 0
        self._steps: list[tuple[int, int] | Callable[[int, Any], None]] = []
        address, done = self._records.ctypes.data, 0
        for is_call, group in groupby(parts, lambda part: isinstance(part, KernelCall)):
            run: list[Any] = list(group)
            self._steps += [(address + done * RECORD * 8, len(run))] if is_call else run
            done += len(run) if is_call else 0

    def run(self, rows: int, given: Mapping[Hashable, int | Numbers], context: Any) -> None:
        """Run everything.

        Args:
            given: the number, or the numbers, of each name.
        """
        if rows != self._rows:
            for argument, places in self._of_rows.items():
                self._numbers[places] = argument.compute(rows)
            self._rows = rows
        for name, (places, offsets) in self._given.items():
            self._numbers[places] = given[name] + offsets
        for name, (places, indices) in self._elements.items():
            self._numbers[places] = cast(Numbers, given[name])[indices]
        for step in self._steps:
            if isinstance(step, tuple):
                self._runner(*step)
            else:
                step(rows, context)


def _by_name(arguments: Iterable[tuple[Hashable, int, list[int]]]) -> dict[Hashable, tuple[Numbers, Numbers]]:
    """For each name where its arguments are, and the number that each has."""
    found: defaultdict[Hashable, list[tuple[int, int]]] = defaultdict(list)
    for name, number, places in arguments:
        found[name] += [(place, number) for place in places]
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in found.items()}
