"""Find tokens that a tokenizer makes and a model lacks, and refuse texts that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_runtime.contract.errors import InvalidRequest
from runners.kernels.embedding import embedding_rows


def known_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the tokens that a model reads: the rows of its embedding, where ids index one."""
    rows = embedding_rows(model)
    # Models of characters and bytes hash ids, or have a table of another kind.
    return rows if rows is not None else int(getattr(model.config, "vocab_size", None) or len(tokenizer))


def missing_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Mapping[int, str]:
    """Find tokens whose ids are beyond the model's embedding: they were added to the tokenizer alone.

    Returns:
        Each token by its id, in the order of ids; empty for most models.
    """
    rows = embedding_rows(model)
    # Listing a large vocabulary takes a tenth of a second.
    if rows is None or max((len(tokenizer) - 1, *tokenizer.added_tokens_decoder)) < rows:
        return {}
    known = {number: token for token, number in tokenizer.get_vocab().items()}
    return {number: known[number] for number in sorted(known) if number >= rows}


def refuse_missing(token_ids: Iterable[int], missing: Mapping[int, str], field: str | None = None) -> None:
    """Refuse a text with a token that the model lacks: on a GPU it would break the device for all others.

    Raises:
        InvalidRequest: names the token.
    """
    if missing and (token := next((token for token in token_ids if token in missing), None)) is not None:
        reason = f"{field or 'the text'} holds {missing[token]!r}, a token that the tokenizer knows and the model lacks"
        raise InvalidRequest(reason, field=field, shows_field=False)
