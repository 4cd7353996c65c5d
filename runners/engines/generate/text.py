"""The text of tokens as they are written: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

#: Tokens decoded along with the new ones: a word's leading space is only seen beside the token before it.
_CONTEXT_TOKENS = 8

#: Context at most, where the last tokens are special ones, which decode to nothing.
_LONGEST_CONTEXT = 64

#: Tokens of a character at most: one for each of its bytes.
_LONGEST_CHARACTER = 4

#: What decoders write for bytes that are no character, or not yet.
_REPLACEMENT = "\ufffd"


class TextStream:
    """Decodes one sequence token by token.

    The text is decoded in a window over the last tokens, as text-generation-inference does, because decoding a token
    alone loses spaces and characters of several tokens.

    Args:
        before: tokens of the prompt that the text continues.
        stop: strings before the first of which the text ends.
    """

    _window: list[int]
    #: Tokens of the window whose text was read already, and that text.
    _read: int
    _shown: str

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._keep(list(before[-_LONGEST_CONTEXT:]), _CONTEXT_TOKENS)
        self._held = ""  # may be the beginning of a stop string
        self._given: list[str] = []
        #: The stop string that ended the text.
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self.stopped_by is not None

    @property
    def text(self) -> str:
        """All that was given out."""
        return "".join(self._given)

    def feed(self, token: int) -> str:
        """The text that is certain with one more token; nothing after a stop string was found."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.endswith(_REPLACEMENT):
            return self._give(self._new(text))
        if len(self._window) - self._read <= _LONGEST_CHARACTER:
            return ""  # half a character
        return self._give(self._new(text, held=self._half_character(text)))

    def hold(self, token: int) -> None:
        """Take one more token, whose text is not asked for before the end."""
        self._window.append(token)

    def end(self) -> str:
        """What was held back: tokens, a half character as the decoder shows it, the beginning of no stop string."""
        text = "" if self.stopped else self._give(self._new(self._decode(self._window)))
        if not self.stopped:
            text += self._held
            self._given.append(self._held)
            self._held = ""
        return text

    def _half_character(self, text: str) -> int:
        """Tokens at the end of a text without sense that may yet become a character."""
        for count in range(1, _LONGEST_CHARACTER):
            if self._decode(self._window[:-count]) + self._decode(self._window[-count:]) == text:
                return count
        return 0

    def _new(self, text: str, held: int = 0) -> str:
        """Step the window forward, to before its last `held` tokens; what its text has more than was read."""
        if held:
            later, self._window = self._window[-held:], self._window[:-held]
            new = self._new(self._decode(self._window))
            self._window += later
            return new
        # A decoder may drop a leading space only once more tokens follow: then the text does not continue what it was.
        new = text[len(self._shown) :] if text.startswith(self._shown) else self._decode(self._window[self._read :])
        self._keep(self._window, len(self._window) - self._read + _CONTEXT_TOKENS)
        return new

    def _keep(self, tokens: list[int], count: int) -> None:
        """Keep the last tokens as context for decoding the next; keep more if these decode to an empty string."""
        self._window = tokens[-count:]
        self._shown = self._decode(self._window)
        if not self._shown and len(tokens) > count:
            self._window = tokens[-_LONGEST_CONTEXT:]
            self._shown = self._decode(self._window)
        self._read = len(self._window)

    def _give(self, new: str) -> str:
        text = self._held + new
        first = min(((at, string) for string in self._stop if (at := text.find(string)) >= 0), default=None)
        if first is not None:
            at, self.stopped_by = first
            given, self._held = text[:at], ""
        else:
            held = max((overlap(text, string) for string in self._stop), default=0)
            given, self._held = text[: len(text) - held], text[len(text) - held :]
        self._given.append(given)
        return given

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def overlap(text: str, string: str) -> int:
    """Characters at the end of a text that begin a string."""
    longest = min(len(text), len(string) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(string[:length])), 0)
