"""Incremental detokenization: whole characters only, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

#: Earlier tokens decoded together with the new ones: without them a word loses its leading space.
_CONTEXT_TOKENS = 8

#: The longest context, used where the last tokens are special ones, which decode to an empty string.
_LONGEST_CONTEXT = 64

#: The most tokens of one character: one for each of its bytes.
_LONGEST_CHARACTER = 4

#: Character that decoders return for bytes that are not, or not yet, a whole character.
_REPLACEMENT = "\ufffd"


class TextStream:
    """Detokenizer of one sequence that returns its text token by token.

    It decodes a window of the last tokens, as text-generation-inference does, because decoding single tokens loses
    spaces and characters of several tokens.

    Args:
        before: tokens of the prompt that the text continues.
        stop: stop strings; the text ends before the first one found.
        hidden: tokens without text; None for all special tokens.
        includes_stop: the text ends with that one instead.
    """

    _window: list[int]
    #: Number of tokens of the window whose text was returned already, and that text.
    _decoded_tokens: int
    _decoded_text: str

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        before: Sequence[int],
        stop: Sequence[str],
        hidden: Collection[int] | None = None,
        *,
        includes_stop: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._stop = stop
        self._includes_stop = includes_stop
        self._set_window(list(before[-_LONGEST_CONTEXT:]), _CONTEXT_TOKENS)
        self._held = ""  # may be the beginning of a stop string
        self._returned: list[str] = []
        #: The stop string that ended the text.
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        """True once a stop string has ended the text."""
        return self.stopped_by is not None

    @property
    def text(self) -> str:
        """All text that was returned so far."""
        return "".join(self._returned)

    def feed(self, token: int) -> str:
        """Add one token and return the text that is final with it; nothing after a stop string."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.endswith(_REPLACEMENT):
            return self._cut_at_stop(self._advance(text))
        if len(self._window) - self._decoded_tokens <= _LONGEST_CHARACTER:
            return ""  # an incomplete character
        return self._cut_at_stop(self._advance(text, held=self._count_incomplete(text)))

    def append(self, token: int) -> None:
        """Add one token without decoding it; `end` returns its text."""
        self._window.append(token)

    def end(self) -> str:
        """Return the text that was held back.

        It is the text of tokens not decoded yet and the start of a possible stop string. An incomplete character is
        returned as the decoder shows it.
        """
        text = "" if self.stopped else self._cut_at_stop(self._advance(self._decode(self._window)))
        if not self.stopped:
            text += self._held
            self._returned.append(self._held)
            self._held = ""
        return text

    def end_with(self, string: str) -> str:
        """Return the text that was held back, followed by a stop string."""
        text = self.end()
        if not self.stopped:
            text += string
            self._returned.append(string)
            self.stopped_by = string
        return text

    def _count_incomplete(self, text: str) -> int:
        """Count the last tokens of the window that may be the start of a character."""
        for count in range(1, _LONGEST_CHARACTER):
            if self._decode(self._window[:-count]) + self._decode(self._window[-count:]) == text:
                return count
        return 0

    def _advance(self, text: str, held: int = 0) -> str:
        """Move the window to before its last `held` tokens, and return the new text."""
        if held:
            later, self._window = self._window[-held:], self._window[:-held]
            new = self._advance(self._decode(self._window))
            self._window += later
            return new
        # A decoder may drop a leading space once more tokens follow; then the text does not start with the old one.
        new = (
            text[len(self._decoded_text) :]
            if text.startswith(self._decoded_text)
            else self._decode(self._window[self._decoded_tokens :])
        )
        self._set_window(self._window, len(self._window) - self._decoded_tokens + _CONTEXT_TOKENS)
        return new

    def _set_window(self, tokens: list[int], count: int) -> None:
        """Set the window to the last `count` tokens, or to more if these decode to an empty string."""
        self._window = tokens[-count:]
        self._decoded_text = self._decode(self._window)
        if not self._decoded_text and len(tokens) > count:
            self._window = tokens[-_LONGEST_CONTEXT:]
            self._decoded_text = self._decode(self._window)
        self._decoded_tokens = len(self._window)

    def _cut_at_stop(self, new: str) -> str:
        text = self._held + new
        first = min(((at, string) for string in self._stop if (at := text.find(string)) >= 0), default=None)
        if first is not None:
            at, self.stopped_by = first
            final, self._held = text[: at + len(self.stopped_by) * self._includes_stop], ""
        else:
            held = max((overlap_length(text, string) for string in self._stop), default=0)
            final, self._held = text[: len(text) - held], text[len(text) - held :]
        self._returned.append(final)
        return final

    def _decode(self, tokens: list[int]) -> str:
        if self._hidden is None:
            return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        # The tokenizer can leave out all special tokens or none.
        return str(self._tokenizer.decode([token for token in tokens if token not in self._hidden]))


def overlap_length(text: str, string: str) -> int:
    """Return the number of characters at the end of `text` that are a start of `string`."""
    longest = min(len(text), len(string) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(string[:length])), 0)
