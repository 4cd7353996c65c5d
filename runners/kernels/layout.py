"""Constants that kernels share with the code that calls them."""

from __future__ import annotations

from runners.kernels.host_cpu import has_feature

#: Length in int64 of a kernel's call: the next unit, the number of units, and up to 14 arguments.
CALL_LENGTH = 16

#: Length in int64 of a call of a program: the kernel's address, whether threads share it, and the kernel's call.
RECORD_LENGTH = 2 + CALL_LENGTH

#: Values of 32 bits in a register, or in two registers without AVX-512; outputs in a panel of weights.
LANES = 16

#: Rows and panels of a tile, whose sums stay in registers: 24 of 32. Without AVX-512 a panel is two registers, and
#: a tile has 8 of 16: with 12 of them, layers of many rows took up to a third longer (AMD EPYC).
TILE_ROWS, TILE_PANELS = (8, 3) if has_feature("avx512f") else (4, 1)

#: Bytes of a row of inputs in one step of multiplying, and bytes of a panel of weights in the same step.
STEP_BYTES, PANEL_STEP_BYTES = 4, 64

#: Float32 panels in a unit of work, at most four: a single row needs several independent sums to hide latency.
GROUP_PANELS = 4 // TILE_PANELS * TILE_PANELS

#: Integers that describe a sequence to the attention kernel: its first token, its first key, the number of tokens, the
#: number of keys, and the number of keys that the first token attends to (each next token attends to one more).
SEQUENCE_FIELDS = 5

#: The name of a kernel's function in its machine code.
ENTRY_NAME = "kernel"


def fits_registers(*sizes: int) -> bool:
    """Return whether rows of these sizes fill whole registers."""
    return all(size % LANES == 0 for size in sizes)
