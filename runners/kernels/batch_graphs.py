"""CUDA graphs of a model's forward pass for small padded batches.

A forward pass launches hundreds of small kernels. Up to a few thousand tokens, Python takes longer to launch them than
a GPU to compute them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import product
from time import monotonic
from typing import Any

import torch
from transformers import PreTrainedModel

from runners.kernels.capture import Buffers, Recorder, is_on_one_gpu, prepare_capture
from runners.kernels.fallbacks import DifferentResults
from runners.kernels.rounding import is_within_rounding

logger = logging.getLogger(__name__)

#: Rows and lengths that graphs are captured for. Smaller batches are padded to the next shape.
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)

#: Most tokens of a graph, padding included. In larger batches launching is hidden, and the padding costs more than a
#: graph gains: 1,168 tokens of BERT-base take an H200 13 ms in float32, 15 ms padded; in bfloat16 1.4 in place of 5.
_MAX_TOKENS, _MAX_TOKENS_FLOAT32 = 4096, 1024

#: Rows and length of a batch.
Shape = tuple[int, int]


class BatchGraphs:
    """CUDA graphs of a model's forward pass, one per batch shape.

    Args:
        names: names of the model's inputs, all of shape (rows, length).
        longest: longest input in tokens; None if the model has no limit.

    Attributes:
        input_names: `names` as a set.
        max_tokens: tokens of the largest batch, padding included.

    Raises:
        RuntimeError: the forward pass cannot be captured.
        torch.OutOfMemoryError: there is not enough memory.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str], longest: int | None) -> None:
        self._model: Any = model
        self.input_names = frozenset(names)
        self._buffers = Buffers(model.device)
        lengths = sorted({min(length, longest or length) for length in _LENGTHS})
        self.max_tokens = _MAX_TOKENS_FLOAT32 if model.dtype == torch.float32 else _MAX_TOKENS
        shapes = [shape for shape in product(_ROWS, lengths) if shape[0] * shape[1] <= self.max_tokens]
        self._graphs: dict[Shape, tuple[torch.cuda.CUDAGraph, Any]] = {}
        with prepare_capture(model.device) as pool:
            # The largest shape first, so that the others reuse its memory.
            for shape in sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape[0]), reverse=True):
                self._graphs[shape] = self._capture_shape(shape, pool)
        self._shapes = sorted(shapes, key=lambda shape: shape[0] * shape[1])

    def find_shape(self, rows: int, length: int) -> Shape | None:
        """Return the smallest shape that a batch fits into, or None."""
        return next((shape for shape in self._shapes if shape[0] >= rows and shape[1] >= length), None)

    def compute(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """Run the graph for the inputs' shape; the output is valid until the next call."""
        rows, length = inputs["input_ids"].shape
        for name in self.input_names:
            self._get_input(name, (rows, length)).copy_(inputs[name])
        graph, output = self._graphs[rows, length]
        graph.replay()
        return output

    def _get_input(self, name: str, shape: Shape) -> torch.Tensor:
        return self._buffers.get(name, shape, torch.long)

    def _capture_shape(self, shape: Shape, pool: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
        inputs = {name: self._get_input(name, shape).zero_() for name in self.input_names}
        if (mask := inputs.get("attention_mask")) is not None:
            mask[:, : shape[1] - 1] = 1
            mask[0] = 1
        # A first call without capture: libraries allocate memory and choose kernels in it.
        self._model(**inputs)
        with Recorder(pool) as recorder:
            output = self._model(**inputs)
            outputs = {
                name: self._buffers.store(("output", name), value)
                for name, value in output.items()
                if isinstance(value, torch.Tensor)
            }
            return recorder.end(), type(output)(**outputs)


def capture_batch_graphs(
    model: PreTrainedModel, example: Mapping[str, Sequence[int]], longest: int | None
) -> BatchGraphs | None:
    """Capture graphs of a model and verify their results; None if the model is not on one GPU.

    Args:
        example: inputs for one sequence.
        longest: longest input in tokens; None if the model has no limit.

    Raises:
        Exception: the model cannot be captured, or the graphs compute other results (`DifferentResults`).
    """
    if not is_on_one_gpu(model):
        return None
    started = monotonic()
    graphs = BatchGraphs(model, list(example), longest)
    _verify_graphs(model, graphs, example)
    logger.info(
        "CUDA graphs captured for batches of up to %d tokens in %.1f s", graphs.max_tokens, monotonic() - started
    )
    return graphs


@torch.inference_mode()
def _verify_graphs(model: Any, graphs: BatchGraphs, example: Mapping[str, Sequence[int]]) -> None:
    """Compare graphs with the model on a padded batch: the example and its first half.

    Raises:
        DifferentResults: the outputs differ.
    """
    whole = len(example["input_ids"])
    half = max(whole // 2, 1)
    shape = graphs.find_shape(2, whole)
    if shape is None:
        return
    inputs = {}
    for name, values in example.items():
        inputs[name] = torch.zeros(shape, dtype=torch.long)
        inputs[name][:, :half] = torch.tensor(values[:half])
        inputs[name][::2, :whole] = torch.tensor(values)
    expected = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})[0].float()
    output = graphs.compute(inputs)[0].float()
    for row, length in ((0, whole), (1, half)):
        # Outputs of padding are not compared.
        seen = slice(length) if expected.dim() > 2 or expected.shape[1] == shape[1] else slice(None)
        right, computed = expected[row][seen], output[row][seen]
        if not is_within_rounding([computed], [right], model.dtype):
            raise DifferentResults
