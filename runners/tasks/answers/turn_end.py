"""Tokens that end the assistant's turn in a chat."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from runners.tasks.answers import harmony
from runners.tasks.chat_prompt import TEMPLATE_ERRORS

#: Content whose end is found again in a rendered chat.
_CONTENT = "The answer is 42."


def find_turn_ends(tokenizer: PreTrainedTokenizerBase, templates: str) -> frozenset[int]:
    """Return the end token of the tokenizer, and that of the chat template's turns.

    A generation config may name neither: then the model would continue with the next turn.
    """
    added = {str(entry): token for token, entry in tokenizer.added_tokens_decoder.items()}
    ends = {tokenizer.eos_token_id} - {None}
    if harmony.is_harmony(templates):
        # The template ends earlier turns with a token that also ends a message within a turn.
        return frozenset(ends | {added[name] for name in harmony.ENDS if name in added})
    if templates:
        after = _render_after_answer(tokenizer)
        ends |= {token for name, token in added.items() if name.strip() and after.startswith(name)}
    return frozenset(ends)


def _render_after_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the template writes after an answer."""
    chat = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": _CONTENT}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except TEMPLATE_ERRORS:
        return ""
    return text.rpartition(_CONTENT)[2].lstrip() if _CONTENT in text else ""
