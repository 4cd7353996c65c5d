"""Windows of a text: rows that overlap, each cut out of the whole when it is computed.

As lists of their own, the windows of 9 KB of text would take 40 MB, where each repeats all but one token of the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence


class Whole:
    """All tokens of a text, of which windows are cut.

    Args:
        values: of each token, by name.
        head, tail: positions of the tokens that every window has before and behind its own.
        inside: positions of those that are divided among windows.
    """

    def __init__(
        self, values: Mapping[str, Sequence[int]], head: Iterable[int], inside: Iterable[int], tail: Iterable[int]
    ) -> None:
        head, inside, tail = list(head), list(inside), list(tail)
        self.head = {name: [given[p] for p in head] for name, given in values.items()}
        self.inside = {name: [given[p] for p in inside] for name, given in values.items()}
        self.tail = {name: [given[p] for p in tail] for name, given in values.items()}


class Window(Mapping[str, list[int]]):
    """A row: values of the tokens of one window, by name.

    Args:
        start, stop: which of the tokens inside of the whole are its own.
    """

    __slots__ = ("_start", "_stop", "_whole")

    def __init__(self, whole: Whole, start: int, stop: int) -> None:
        self._whole, self._start, self._stop = whole, start, stop

    def __getitem__(self, name: str) -> list[int]:
        whole = self._whole
        return [*whole.head[name], *whole.inside[name][self._start : self._stop], *whole.tail[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole.inside)

    def __len__(self) -> int:
        return len(self._whole.inside)


def tokens_of(starts: Sequence[int], around: int, room: int, inside: int) -> int:
    """Tokens of all windows together.

    Args:
        starts: of the windows, at least one; all but the last are full.
        around: tokens of each window that are not its own.
        room: for its own.
        inside: tokens that are divided among windows.
    """
    return len(starts) * around + (len(starts) - 1) * room + min(inside - starts[-1], room)
