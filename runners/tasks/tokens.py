"""Checks of token ids that a model would fail on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hf_runtime.contract.errors import InvalidRequest


def refuse_missing(token_ids: Iterable[int], missing: Mapping[int, str], field: str | None = None) -> None:
    """Refuse an input with a token that the model lacks.

    On a GPU such a token makes the device fail for all later requests.

    Raises:
        InvalidRequest: names the token.
    """
    if missing and (token := next((token for token in token_ids if token in missing), None)) is not None:
        reason = f"{field or 'the text'} holds {missing[token]!r}, a token that the tokenizer knows and the model lacks"
        raise InvalidRequest(reason, field=field, shows_field=False)
