"""Builder of LLVM code for tiles: products of a few rows with a few panels of weights.

Compilers do not keep the sums in registers by themselves. A panel has the weights of 16 outputs in the order in which
they are read: 64 bytes for each four bytes of a row of inputs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from llvmlite import ir

from runners.kernels.layout import LANES, PANEL_STEP_BYTES, STEP_BYTES
from runners.kernels.sources.language import declare_function


class TileBuilder:
    """Builder of the code that computes one tile.

    Args:
        shape: numbers of rows and of panels.
        x, weights, out: addresses of the first row's inputs, of all weights, and of the first row's outputs.
        row_bytes: bytes of a row of inputs.
        width: outputs of a row.
        panel: index of the first panel.
        ahead: address to prefetch from, in place of `weights`.
        stride: bytes of each panel to prefetch with each step.

    Attributes:
        first_offset: offset in bytes of the first output in a row of float32.
    """

    BYTE, INT, LONG, FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
    INTS, FLOATS = ir.VectorType(INT, LANES), ir.VectorType(FLOAT, LANES)

    #: Type of sums, and type of four bytes of inputs.
    SUMS: ClassVar[Any] = FLOATS
    INPUT: ClassVar[Any] = FLOAT

    def __init__(
        self, builder: Any, shape: tuple[int, int], x: Any, weights: Any, out: Any, row_bytes: Any, width: Any,
        panel: Any, ahead: Any, stride: Any,
    ) -> None:  # fmt: skip
        self.builder, self._stride = builder, stride
        (self._rows, self._panels), self._x, self._row_bytes = shape, x, row_bytes
        self._distance = builder.mul(width, self.build_constant(4))
        before = builder.mul(builder.mul(panel, self.build_constant(LANES)), row_bytes)
        self._weights, self._ahead = builder.add(weights, before), builder.add(ahead, before)
        self.first_offset = builder.mul(panel, self.build_constant(LANES * 4))
        self._out = builder.add(out, self.first_offset)

    def build_sum(self, total: Any, inputs: Any, weights: Any) -> Any:
        """Add products of inputs and weights to a sum; the inputs have the same value in all lanes."""
        raise NotImplementedError

    def build_outputs(self, sums: list[Any], offset: Any) -> list[Any]:
        """Compute the outputs of a panel from the sums of each row.

        Args:
            sums: one sum per row.
            offset: offset in bytes of the panel's outputs from the tile's first output.
        """
        raise NotImplementedError

    def build(self) -> None:
        """Build the code at the builder's position."""
        builder, row_bytes = self.builder, self._row_bytes
        rows = [builder.add(self._x, builder.mul(self.build_constant(row), row_bytes)) for row in range(self._rows)]
        before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        depth = builder.phi(self.LONG)
        depth.add_incoming(self.build_constant(0), before)
        ahead = builder.phi(self.LONG)
        ahead.add_incoming(self._ahead, before)
        sums = [[builder.phi(self.SUMS) for _ in range(self._panels)] for _ in range(self._rows)]
        weights = [self._build_weights_load(panel, depth) for panel in range(self._panels)]
        for panel in range(self._panels):
            self._build_prefetch(builder.add(ahead, builder.mul(self.build_constant(panel * LANES), row_bytes)))
        products = []
        for totals, start in zip(sums, rows, strict=True):
            inputs = self.build_broadcast(self.build_load(builder.add(start, depth), self.INPUT, 4), self.SUMS)
            products.append([self.build_sum(one, inputs, weight) for one, weight in zip(totals, weights, strict=True)])
        for totals, added in zip(sums, products, strict=True):
            for one, new in zip(totals, added, strict=True):
                one.add_incoming(ir.Constant(self.SUMS, [0] * LANES), before)
                one.add_incoming(new, loop)
        next_depth = builder.add(depth, self.build_constant(STEP_BYTES))
        depth.add_incoming(next_depth, loop)
        ahead.add_incoming(builder.add(ahead, self._stride), loop)
        builder.cbranch(builder.icmp_signed("<", next_depth, row_bytes), loop, after)
        builder.position_at_end(after)
        for panel in range(self._panels):
            offset = self.build_constant(panel * LANES * 4)
            for row, output in enumerate(self.build_outputs([totals[panel] for totals in products], offset)):
                at = builder.add(builder.add(self._out, builder.mul(self.build_constant(row), self._distance)), offset)
                builder.store(output, builder.inttoptr(at, self.FLOATS.as_pointer())).align = 4

    def _build_weights_load(self, panel: int, depth: Any) -> Any:
        builder = self.builder
        start = builder.add(self._weights, builder.mul(self.build_constant(panel * LANES), self._row_bytes))
        at = builder.add(start, builder.mul(depth, self.build_constant(PANEL_STEP_BYTES // STEP_BYTES)))
        return self.build_load(at, self.SUMS, PANEL_STEP_BYTES)

    def _build_prefetch(self, at: Any) -> None:
        """Build a prefetch of an address."""
        kind = ir.FunctionType(ir.VoidType(), [self.BYTE.as_pointer(), self.INT, self.INT, self.INT])
        # Arguments: for reading, into all caches, data.
        options = (ir.Constant(self.INT, value) for value in (0, 3, 1))
        pointer = self.builder.inttoptr(at, self.BYTE.as_pointer())
        self.builder.call(declare_function(self.builder, "llvm.prefetch.p0", kind), [pointer, *options])

    def build_load(self, at: Any, kind: Any, alignment: int) -> Any:
        """Build a load from an address."""
        loaded = self.builder.load(self.builder.inttoptr(at, kind.as_pointer()))
        loaded.align = alignment
        return loaded

    def build_broadcast(self, value: Any, kind: Any) -> Any:
        """Build a vector with the same value in all lanes."""
        undefined, first = ir.Constant(kind, ir.Undefined), ir.Constant(self.INT, 0)
        return self.builder.shuffle_vector(
            self.builder.insert_element(undefined, value, first), undefined, ir.Constant(self.INTS, [0] * LANES)
        )

    def build_constant(self, value: int) -> Any:
        """Return an int64 constant."""
        return ir.Constant(self.LONG, value)
