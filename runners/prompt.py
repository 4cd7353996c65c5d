"""What a generating model is asked to continue and how, and the text of what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

#: New tokens of each of a prompt's sequences, without the one that ended it.
Sequences = list[list[int]]

#: Prompt tokens decoded along with new ones: a word's leading space is only seen beside the token before it.
_CONTEXT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How tokens are chosen. None leaves a value to the model.

    Attributes:
        sampling: temperature, top_k and top_p; None for the likeliest tokens.
    """

    sampling: tuple[float, int, float] | None
    sequences: int
    min_new_tokens: int
    repetition_penalty: float | None
    forced_bos_token_id: int | None


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt with all that its answer depends on.

    Attributes:
        continues: the answer continues the prompt's text, rather than being a text of its own.
        stop: strings before the first of which the answer ends.
        stop_ids: those of them that are special tokens, which no text shows.
        seed: of this prompt's random numbers; None if it needs none.
    """

    input_ids: list[int]
    continues: bool
    plan: Plan
    max_new_tokens: int
    stop: tuple[str, ...]
    stop_ids: frozenset[int]
    seed: int | None

    def text(self, tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
        """The text of new tokens, without special ones, before the first stop string."""
        text = self._decoded(tokenizer, tokens)
        return text[: first_stop(text, self.stop)]

    def is_stopped(self, tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> bool:
        """Whether new tokens hold a stop string, of which their last one is a part."""
        if not self.stop:
            return False
        # A token is a byte or more, so the end of the text is enough to look at, but not quite to be sure.
        end = tokens[-max(len(stop.encode()) for stop in self.stop) - 2 :]
        if first_stop(_decode(tokenizer, end), self.stop) is None:
            return False
        return first_stop(self._decoded(tokenizer, tokens), self.stop) is not None

    def _decoded(self, tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
        if self.continues:
            context = self.input_ids[-_CONTEXT_TOKENS:]
            before, whole = _decode(tokenizer, context), _decode(tokenizer, context + tokens)
            if whole.startswith(before):
                return whole[len(before) :]
        return _decode(tokenizer, tokens)


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of any stop string begins; None if the text has none."""
    return min((at for string in stop if (at := text.find(string)) >= 0), default=None)


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True))
