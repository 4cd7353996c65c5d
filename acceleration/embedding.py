"""An embedding table that an output head has too, and keeps for both.

Small language models mostly have one table for what they read and what they write: a fifth of SmolLM2's weights. A head
computes fastest with panels, in which a row is found as well, if not in one piece: 16 rows of SmolLM2 take 0.1 ms of a
step of 60.
"""

from __future__ import annotations

import torch
from torch import nn

from acceleration.packed import TiledLinear
from acceleration.tiles import rows_of_panels


class TiledEmbedding(nn.Module):
    """The rows of a head's weights.

    Attributes:
        weight: shape (num_embeddings, embedding_dim), without values: what is asked of it is its shape and type.
    """

    weight: torch.Tensor

    def __init__(self, head: TiledLinear) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = head.out_features, head.in_features
        self._head = head
        self.register_buffer("weight", head.weight, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Shape (...) to (..., embedding_dim)."""
        return rows_of_panels(self._head.packed, self.embedding_dim, tokens)


class SharedTables:
    """The plain embeddings of a model, before its weights get another form."""

    def __init__(self, model: nn.Module) -> None:
        # Not of derived classes: those compute something else.
        self._found = [
            (parent, name, child)
            for parent in model.modules()
            for name, child in parent.named_children()
            if type(child) is nn.Embedding and child.max_norm is None
        ]

    def read_from(self, head: TiledLinear, weight: torch.Tensor) -> None:
        """Read those with the weights that a head was made of from there, and keep them no longer."""
        mine = [place for place in self._found if place[2].weight.is_set_to(weight)]
        if mine:
            embedding = TiledEmbedding(head)
            for parent, name, _ in mine:
                setattr(parent, name, embedding)
            self._found = [place for place in self._found if place not in mine]
