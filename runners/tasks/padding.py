"""Padding of a batch that no model takes for text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any

from runners.engines.rows import Row
from runners.models.pretrained import Pretrained


class Padding:
    """Chooses the token that fills rows up.

    A classifier on a decoder reads a text at the last token that is no padding, by `config.pad_token_id`. Where the
    config has none, any token may be a text's own last one: then the padding of a batch is one that no row of it has.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        model, tokenizer = pretrained.model, pretrained.tokenizer
        self._model: Any = model
        self._tokens = pretrained.tokens
        own = getattr(model.config, "pad_token_id", None)
        self._fixed = self._known(own)
        preferred = self._known(tokenizer.pad_token_id)
        self._preferred = [] if preferred is None else [preferred]
        self._none_in_config = own is None
        self._models: dict[int, Any] = {}

    def token_for(self, rows: Sequence[Row[Mapping[str, list[int]]]]) -> int:
        """Choose the padding of a batch; the embedding has it."""
        if self._fixed is not None or len(rows) == 1:
            return self._fixed or 0
        used = set(chain.from_iterable(row.inputs["input_ids"] for row in rows))
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

    def _known(self, token: Any) -> int | None:
        """The token if the embedding has it."""
        return token if isinstance(token, int) and 0 <= token < self._tokens else None
