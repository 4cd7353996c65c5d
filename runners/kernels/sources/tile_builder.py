"""Products of some rows with some panels of weights, written as the processor's instructions.

No compiler keeps sums in registers by itself. Weights lie in panels of 16 outputs, in the order in which they are read:
64 bytes for each four bytes of a row of inputs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from llvmlite import ir

from runners.kernels.layout import LANES, PANEL_STEP, STEP
from runners.kernels.sources.language import function


class TileBuilder:
    """Code for outputs of some rows and some panels.

    Args:
        shape: how many of both.
        x, weights, out: addresses of the first row's inputs, of all weights, and of the first row's outputs.
        row_bytes: of a row of inputs.
        width: outputs of a row.
        panel: the first one.
        ahead, stride: an address in place of that of all weights, from where some are asked for, and how many bytes of
            each panel with each step.

    Attributes:
        first: bytes before what belongs to the first output.
    """

    BYTE, INT, LONG, FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
    INTS, FLOATS = ir.VectorType(INT, LANES), ir.VectorType(FLOAT, LANES)

    #: What sums are, and four bytes of inputs.
    SUMS: ClassVar[Any] = FLOATS
    INPUT: ClassVar[Any] = FLOAT

    def __init__(
        self, builder: Any, shape: tuple[int, int], x: Any, weights: Any, out: Any, row_bytes: Any, width: Any,
        panel: Any, ahead: Any, stride: Any,
    ) -> None:  # fmt: skip
        self.builder, self._stride = builder, stride
        (self._rows, self._panels), self._x, self._row_bytes = shape, x, row_bytes
        self._distance = builder.mul(width, self.long(4))
        before = builder.mul(builder.mul(panel, self.long(LANES)), row_bytes)
        self._weights, self._ahead = builder.add(weights, before), builder.add(ahead, before)
        self.first = builder.mul(panel, self.long(LANES * 4))
        self._out = builder.add(out, self.first)

    def multiplied(self, total: Any, inputs: Any, weights: Any) -> Any:
        """A sum with products added: of inputs that stand in all lanes, and weights as sums are."""
        raise NotImplementedError

    def finished(self, sums: list[Any], place: Any) -> list[Any]:
        """Outputs, from the sums of each row for a panel; what belongs to its outputs stands at `place` bytes."""
        raise NotImplementedError

    def build(self) -> None:
        """Build it where the builder is."""
        builder, row_bytes = self.builder, self._row_bytes
        rows = [builder.add(self._x, builder.mul(self.long(row), row_bytes)) for row in range(self._rows)]
        before, loop, behind = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        depth = builder.phi(self.LONG)
        depth.add_incoming(self.long(0), before)
        ahead = builder.phi(self.LONG)
        ahead.add_incoming(self._ahead, before)
        sums = [[builder.phi(self.SUMS) for _ in range(self._panels)] for _ in range(self._rows)]
        weights = [self._load_weights(panel, depth) for panel in range(self._panels)]
        for panel in range(self._panels):
            self._ask_for(builder.add(ahead, builder.mul(self.long(panel * LANES), row_bytes)))
        products = []
        for totals, start in zip(sums, rows, strict=True):
            inputs = self.spread(self.load(builder.add(start, depth), self.INPUT, 4), self.SUMS)
            products.append([self.multiplied(one, inputs, weight) for one, weight in zip(totals, weights, strict=True)])
        for totals, added in zip(sums, products, strict=True):
            for one, new in zip(totals, added, strict=True):
                one.add_incoming(ir.Constant(self.SUMS, [0] * LANES), before)
                one.add_incoming(new, loop)
        following = builder.add(depth, self.long(STEP))
        depth.add_incoming(following, loop)
        ahead.add_incoming(builder.add(ahead, self._stride), loop)
        builder.cbranch(builder.icmp_signed("<", following, row_bytes), loop, behind)
        builder.position_at_end(behind)
        for panel in range(self._panels):
            place = self.long(panel * LANES * 4)
            for row, output in enumerate(self.finished([totals[panel] for totals in products], place)):
                at = builder.add(builder.add(self._out, builder.mul(self.long(row), self._distance)), place)
                builder.store(output, builder.inttoptr(at, self.FLOATS.as_pointer())).align = 4

    def _load_weights(self, panel: int, depth: Any) -> Any:
        builder = self.builder
        start = builder.add(self._weights, builder.mul(self.long(panel * LANES), self._row_bytes))
        at = builder.add(start, builder.mul(depth, self.long(PANEL_STEP // STEP)))
        return self.load(at, self.SUMS, PANEL_STEP)

    def _ask_for(self, at: Any) -> None:
        """Have what is at an address brought near."""
        kind = ir.FunctionType(ir.VoidType(), [self.BYTE.as_pointer(), self.INT, self.INT, self.INT])
        # To be read, kept in all caches, and data.
        how = (ir.Constant(self.INT, number) for number in (0, 3, 1))
        asked = self.builder.inttoptr(at, self.BYTE.as_pointer())
        self.builder.call(function(self.builder, "llvm.prefetch.p0", kind), [asked, *how])

    def load(self, at: Any, kind: Any, alignment: int) -> Any:
        """What is at an address."""
        loaded = self.builder.load(self.builder.inttoptr(at, kind.as_pointer()))
        loaded.align = alignment
        return loaded

    def spread(self, number: Any, kind: Any) -> Any:
        """A number in all lanes."""
        nothing, first = ir.Constant(kind, ir.Undefined), ir.Constant(self.INT, 0)
        return self.builder.shuffle_vector(
            self.builder.insert_element(nothing, number, first), nothing, ir.Constant(self.INTS, [0] * LANES)
        )

    def long(self, number: int) -> Any:
        """A number as addresses are."""
        return ir.Constant(self.LONG, number)
