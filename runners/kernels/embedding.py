"""Embedding that shares its table with an output head in panels.

Small language models usually tie the embedding to the output head: the table is a fifth of SmolLM2's weights. The head
computes fastest with panels, and the embedding can gather its rows from them: 16 rows of SmolLM2 take 0.1 ms of a step
of 60 ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from runners.kernels.packed import TiledLinear
from runners.kernels.tiles import gather_rows


def count_embedding_rows(model: Any) -> int | None:
    """Return the number of rows of a model's embedding, or None if it has no table.

    Character models have no table.
    """
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    rows = getattr(embedding, "num_embeddings", None)
    return rows if isinstance(rows, int) else None


class TiledEmbedding(nn.Module):
    """Embedding that reads rows of an output head's weights.

    Attributes:
        packed: the head's packed weights.
        weight: shape (num_embeddings, embedding_dim); only its shape and type may be used.
    """

    packed: torch.Tensor
    weight: torch.Tensor

    def __init__(self, head: TiledLinear) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = head.out_features, head.in_features
        self.register_buffer("packed", head.packed, persistent=False)
        self.register_buffer("weight", head.weight, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map token ids of shape (...) to shape (..., embedding_dim)."""
        return gather_rows(self.packed, self.embedding_dim, tokens)


class SharedTables:
    """Embeddings of a model that may share weights with its output head.

    Args:
        embeddings: each with its parent module and its name in the parent.
    """

    def __init__(self, embeddings: Iterable[tuple[nn.Module, str, Any]]) -> None:
        self._embeddings = [entry for entry in embeddings if entry[2].max_norm is None]

    def share_with(self, head: TiledLinear, weight: torch.Tensor) -> None:
        """Replace embeddings that share a head's weights by ones that read the packed head.

        Args:
            head: the packed head.
            weight: the weights that the head was packed from.
        """
        shared = [entry for entry in self._embeddings if entry[2].weight.is_set_to(weight)]
        if shared:
            embedding = TiledEmbedding(head)
            for parent, name, _ in shared:
                setattr(parent, name, embedding)
            self._embeddings = [entry for entry in self._embeddings if entry not in shared]
