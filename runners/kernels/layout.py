"""Numbers that kernels and those who call them agree on."""

from __future__ import annotations

from runners.kernels.host_cpu import compiles_for

#: Numbers that a kernel is given: the next unit, the number of units, and up to 14 arguments.
ARGUMENTS = 16

#: A call of a program as it is written down: the kernel's address, whether threads share it, and what it is given.
RECORD = 2 + ARGUMENTS

#: Numbers of 32 bits in a register, or in two of them without AVX-512; outputs in a panel of weights.
LANES = 16

#: Rows and panels of outputs that are summed at once: 24 of 32 registers; without AVX-512, where a panel is two
#: registers, 8 of 16. With more of those, six rows, layers of many rows took up to a third longer (AMD EPYC).
ROWS, PANELS = (8, 3) if compiles_for("avx512f") else (4, 1)

#: Bytes of a row of inputs that are multiplied at once, and those of weights that belong to them.
STEP, PANEL_STEP = 4, 64

#: Panels of float32 that a thread takes at a time, up to four: a lone row has so many sums, as each waits for its last.
GROUP = 4 // PANELS * PANELS

#: Numbers that say what a text is: its first token, its first key, how many of both there are, and how many keys the
#: first token sees, the next one more, and so on.
TEXT = 5

#: Names of CBLAS: numbers lie row by row; the first matrix as it is; the second one is packed.
MKL_ROW_MAJOR, MKL_NOT_TRANSPOSED, MKL_PACKED = 101, 111, 151

#: The name of a kernel's function in its machine code.
ENTRY = "kernel"


def fill_registers(*sizes: int) -> bool:
    """Whether rows of such sizes fill whole registers."""
    return all(size % LANES == 0 for size in sizes)
