"""Answers to requests that only use a model's tokenizer."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.chat import parse_chat
from hf_runtime.contract.parameters import token_ids
from hf_runtime.contract.tokenization import Detokenize, TokenizeChat, TokenizerAnswer, TokenizerRequest
from runners.tasks.chat_prompt import tokenize_chat


def use_tokenizer(
    tokenizer: PreTrainedTokenizerBase, request: TokenizerRequest, *, max_length: int | None, vocabulary: int = 0
) -> TokenizerAnswer:
    """Return the tokens of a text or of a chat's prompt, or the text of tokens.

    Args:
        max_length: most tokens that the model reads, or None.
        vocabulary: number of tokens that the model reads, which may be more than the tokenizer knows.

    Raises:
        InvalidRequest: the model has no chat template, or one of the tokens does not exist.
    """
    if isinstance(request, Detokenize):
        token_ids(request.tokens, max(len(tokenizer), vocabulary), "tokens")
        text = str(tokenizer.decode(request.tokens))
        return {"tokens": request.tokens, "token_strs": None, "text": text, "max_length": max_length}
    if isinstance(request, TokenizeChat):
        tokens = tokenize_chat(tokenizer, parse_chat(request.chat))
    else:
        # Not verbose, because the tokenizer would warn about a length that nothing is computed for.
        encoding: Any = tokenizer(request.text, add_special_tokens=request.add_special_tokens, verbose=False)
        tokens = encoding["input_ids"]
    names: Any = tokenizer.convert_ids_to_tokens(tokens) if request.with_names else []
    token_strs = [name or "" for name in names] if request.with_names else None
    return {"tokens": tokens, "token_strs": token_strs, "text": None, "max_length": max_length}
