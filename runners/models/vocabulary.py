"""Find tokens of a tokenizer that a model lacks, and refuse inputs that contain them."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from runners.kernels.embedding import count_embedding_rows


def count_known_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the size of a model's input vocabulary: usually the rows of its embedding."""
    rows = count_embedding_rows(model)
    # Models on characters and bytes hash their ids, or have another kind of table.
    return rows if rows is not None else int(getattr(model.config, "vocab_size", None) or len(tokenizer))


def find_missing_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Mapping[int, str]:
    """Find tokens whose ids are outside the model's embedding.

    Such tokens were added to the tokenizer without resizing the model.

    Returns:
        Each token by its id, in the order of ids; empty for most models.
    """
    rows = count_embedding_rows(model)
    # Return early, because listing a large vocabulary takes a tenth of a second.
    if rows is None or max((len(tokenizer) - 1, *tokenizer.added_tokens_decoder)) < rows:
        return {}
    tokens = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    return {token_id: tokens[token_id] for token_id in sorted(tokens) if token_id >= rows}
