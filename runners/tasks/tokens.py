"""Check of token ids that would make a model fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hf_runtime.contract.errors import InvalidRequest


def reject_missing_tokens(token_ids: Iterable[int], missing: Mapping[int, str], field: str | None = None) -> None:
    """Reject an input with a token that the model lacks.

    On a GPU, such a token makes the device fail for all later requests.

    Args:
        missing: tokens of the tokenizer that the model lacks, by id.
        field: field of the request that the tokens come from; None for the instance.

    Raises:
        InvalidRequest: names the token.
    """
    if missing and (token := next((token for token in token_ids if token in missing), None)) is not None:
        reason = f"{field or 'the text'} holds {missing[token]!r}, a token that the tokenizer knows and the model lacks"
        raise InvalidRequest(reason, field=field, shows_field=False)
