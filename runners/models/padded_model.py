"""A model that computes one padded batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from runners.kernels.batch_graphs import BatchGraphs, Shape, capture_batch_graphs
from runners.kernels.fallbacks import Fallbacks, Optimization
from runners.models.padding import Padding
from runners.models.pretrained import Pretrained

#: Tokenizer output of one row: input_ids, attention_mask and, where the model has them, token_type_ids.
Encoding = Mapping[str, list[int]]


class PaddedModel:
    """Forward pass of a model over rows of different lengths.

    Attributes:
        graphs: CUDA graphs of common shapes; None without.
        switches_attention: the model changes its attention for good when a short sequence comes, as BigBird does.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        self._pretrained = pretrained
        self._padding = Padding(pretrained)
        self._has_one_token_type = _has_one_token_type(pretrained.model)
        self._switching = _find_switching_modules(pretrained.model)
        self._lock = Lock()
        self.switches_attention = bool(self._switching)
        self.graphs: BatchGraphs | None = None

    def use_graphs(self, example: Encoding, fallbacks: Fallbacks) -> None:
        """Capture CUDA graphs if the model is on a GPU that has room for them."""
        with fallbacks.guard(Optimization.GRAPHS):
            self.graphs = capture_batch_graphs(self._pretrained.model, example, self._pretrained.max_length)

    @torch.inference_mode()
    def compute(self, batch: Sequence[Encoding]) -> Any:
        """Return the model's output for rows that are padded on the right.

        They are padded to the longest of them, or to a longer shape that has a graph. The output may be valid only
        until the next call.
        """
        model: Any = self._pretrained.model
        length = max(len(row["input_ids"]) for row in batch)
        graphs = self.graphs if self.graphs is not None and batch[0].keys() == self.graphs.input_names else None
        shape = graphs.find_shape(len(batch), length) if graphs is not None else None
        pad = self._padding.choose_token(batch)
        inputs = {name: self._pad(name, batch, shape or (len(batch), length), pad) for name in batch[0]}
        if graphs is None or shape is None:
            with self._restored_attention():
                forward = self._padding.model_for(len(batch), pad)
                return forward(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
        output = graphs.compute(inputs)
        return type(output)(**{name: tensor[: len(batch)] for name, tensor in output.items()})

    def _pad(self, name: str, batch: Sequence[Encoding], shape: Shape, pad: int) -> torch.Tensor:
        """Return one input of a batch, with copies of the first row up to the shape.

        The tokenizer's own `pad` takes 17 times as long and holds the interpreter's lock.
        """
        if name == "token_type_ids" and self._has_one_token_type:
            return torch.zeros(shape, dtype=torch.long)
        fill = {"input_ids": pad, "token_type_ids": self._pretrained.tokenizer.pad_token_type_id}.get(name)
        padded = np.full(shape, fill or 0)
        for line, row in zip(padded, batch, strict=False):
            values = row[name]
            line[: len(values)] = values
        padded[len(batch) :] = padded[0]
        return torch.from_numpy(padded)

    @contextmanager
    def _restored_attention(self) -> Iterator[None]:
        """Restore the attention that the model was loaded with, for one computation."""
        if not self._switching:
            yield
            return
        with self._lock:
            for module in self._switching:
                module.set_attention_type("block_sparse")
            yield


def _has_one_token_type(model: Any) -> bool:
    """Return true for a model with one token type.

    The types that a BERT tokenizer gives a second text are then replaced by zeros.
    """
    embeddings = getattr(getattr(model, "base_model", model), "embeddings", None)
    table = getattr(embeddings, "token_type_embeddings", None)
    return isinstance(table, torch.nn.Embedding) and table.num_embeddings == 1


def _find_switching_modules(model: torch.nn.Module) -> list[Any]:
    return [
        module
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        and hasattr(module, "set_attention_type")
        and module.config.attention_type == "block_sparse"
    ]
