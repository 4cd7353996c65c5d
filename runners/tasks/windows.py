"""Overlapping windows of a text, each cut out of the text when it is computed.

Stored as lists, the windows of 9 KB of text would take 40 MB if each repeats all but one token of the previous one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence


class TokenizedText:
    """Tokens of a text that is split into windows.

    Args:
        values: values of each token, by name of the model input.
        head, tail: positions of the tokens at the start and the end of every window.
        body: positions of the tokens that are divided among windows.
    """

    def __init__(
        self, values: Mapping[str, Sequence[int]], head: Iterable[int], body: Iterable[int], tail: Iterable[int]
    ) -> None:
        head, body, tail = list(head), list(body), list(tail)
        self.head = {name: [column[p] for p in head] for name, column in values.items()}
        self.body = {name: [column[p] for p in body] for name, column in values.items()}
        self.tail = {name: [column[p] for p in tail] for name, column in values.items()}


class Window(Mapping[str, list[int]]):
    """Values of the tokens of one window, by name of the model input.

    Args:
        start, stop: range of the text's body tokens that the window contains.
    """

    __slots__ = ("_start", "_stop", "_text")

    def __init__(self, text: TokenizedText, start: int, stop: int) -> None:
        self._text, self._start, self._stop = text, start, stop

    def __getitem__(self, name: str) -> list[int]:
        text = self._text
        return [*text.head[name], *text.body[name][self._start : self._stop], *text.tail[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._text.body)

    def __len__(self) -> int:
        return len(self._text.body)


def count_tokens(starts: Sequence[int], fixed: int, capacity: int, body: int) -> int:
    """Count the tokens of all windows.

    Args:
        starts: starts of the windows in the body, at least one; all windows but the last are full.
        fixed: head and tail tokens of each window.
        capacity: body tokens of a full window.
        body: body tokens of the text.
    """
    return len(starts) * fixed + (len(starts) - 1) * capacity + min(body - starts[-1], capacity)
