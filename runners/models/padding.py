"""Padding tokens that no model takes for a part of its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any

from runners.models.pretrained import Pretrained


class Padding:
    """Padding tokens of a model.

    A classifier on a decoder reads a sequence at the last token that is no padding, by `config.pad_token_id`. Where the
    config has none, any token may be the last one of a sequence: then a batch is padded with a token that it lacks.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        model, tokenizer = pretrained.model, pretrained.tokenizer
        self._model: Any = model
        self._tokens = pretrained.tokens
        own = getattr(model.config, "pad_token_id", None)
        self._fixed = self._if_known(own)
        preferred = self._if_known(tokenizer.pad_token_id)
        self._preferred = [] if preferred is None else [preferred]
        self._none_in_config = own is None
        self._models: dict[int, Any] = {}

    def choose_token(self, batch: Sequence[Mapping[str, list[int]]]) -> int:
        """Choose the padding token of a batch, one that the model's embedding has."""
        if self._fixed is not None or len(batch) == 1:
            return self._fixed or 0
        used = set(chain.from_iterable(encoding["input_ids"] for encoding in batch))
        return next((token for token in chain(self._preferred, range(self._tokens)) if token not in used), 0)

    def model_for(self, rows: int, token: int) -> Any:
        """Return the model as it computes a batch with this padding; it shares all weights."""
        if rows == 1 or not self._none_in_config:
            return self._model
        if token not in self._models:
            model = copy(self._model)
            model.config = copy(model.config)
            model.config.pad_token_id = token
            self._models[token] = model
        return self._models[token]

    def _if_known(self, token: Any) -> int | None:
        """Return the token if the embedding has it."""
        return token if isinstance(token, int) and 0 <= token < self._tokens else None
