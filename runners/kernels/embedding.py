"""An embedding table that an output head has too, and keeps for both.

Small language models mostly have one table for what they read and what they write: a fifth of SmolLM2's weights. A head
computes fastest with panels, in which a row is found as well, if not in one piece: 16 rows of SmolLM2 take 0.1 ms of a
step of 60.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from runners.kernels.packed import TiledLinear
from runners.kernels.tiles import rows_of_panels


def embedding_rows(model: Any) -> int | None:
    """Count the tokens of a model's embedding; None where ids index no table, as in models of characters."""
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    rows = getattr(embedding, "num_embeddings", None)
    return rows if isinstance(rows, int) else None


class TiledEmbedding(nn.Module):
    """The rows of a head's weights.

    Attributes:
        packed: as the head has them.
        weight: shape (num_embeddings, embedding_dim), without values: what is asked of it is its shape and type.
    """

    packed: torch.Tensor
    weight: torch.Tensor

    def __init__(self, head: TiledLinear) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = head.out_features, head.in_features
        self.register_buffer("packed", head.packed, persistent=False)
        self.register_buffer("weight", head.weight, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Shape (...) to (..., embedding_dim)."""
        return rows_of_panels(self.packed, self.embedding_dim, tokens)


class SharedTables:
    """Embeddings of a model, before its weights get another form.

    Args:
        embeddings: each with the module it belongs to and its name there.
    """

    def __init__(self, embeddings: Iterable[tuple[nn.Module, str, Any]]) -> None:
        self._found = [place for place in embeddings if place[2].max_norm is None]

    def read_from(self, head: TiledLinear, weight: torch.Tensor) -> None:
        """Read those with the weights that a head was made of from there, and keep them no longer."""
        mine = [place for place in self._found if place[2].weight.is_set_to(weight)]
        if mine:
            embedding = TiledEmbedding(head)
            for parent, name, _ in mine:
                setattr(parent, name, embedding)
            self._found = [place for place in self._found if place not in mine]
