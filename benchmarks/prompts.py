"""Deterministic prompts of any length; all begin differently, so that no cache helps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import gcd

_TEXT = """
The lighthouse keeper wrote down the weather every evening, although nobody had asked for it in years. Rain came from
the west in long grey curtains, and the fishing boats turned home before the tide did. On the shelf above the stove
stood a brass clock, two letters from the harbour office, and a jar of dried beans that his sister had sent in spring.
He liked figures more than words: how many ships had passed, how high the waves stood against the painted rock, how
many hours of oil were left. When the electric lamp arrived, a young engineer spent three days on the stairs with
cables, drank all the coffee, and explained that from now on the light would look after itself. The keeper listened,
nodded, and went on counting. In winter the engineer came back because the lamp had failed during a storm, and found
the old one burning behind the glass, polished, with the wick cut straight. They sat together until the morning, and
the engineer copied a page of the notebook: dates, winds, numbers of ships, and at the end of each line a small cross
where something had happened that could not be counted. Years later those pages were printed by a museum in the town.
Visitors ask what the crosses mean, and the guide tells them that this is the best question of the whole afternoon.
"""
_WORDS = _TEXT.split()

#: Words in the shortest and in the longest prompt of a burst.
_SHORTEST, _LONGEST = 8, 200

#: New tokens of the shortest and of the longest answer of a burst.
_FEWEST, _MOST = 32, 128


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and the number of tokens to generate."""

    prompt: str
    new_tokens: int


class Prompts:
    """Source of prompts; the same ones in the same order in every run."""

    def __init__(self) -> None:
        self._serial = count(1)

    def passage(self, words: int) -> str:
        """Return a prompt of that many words, different from all others from its first words on."""
        serial = next(self._serial)
        begin = serial * 37
        return f"Page {serial}. " + " ".join(_WORDS[(begin + i) % len(_WORDS)] for i in range(words - 2))

    def burst(self, size: int) -> list[Request]:
        """Return requests of uneven lengths.

        Lengths of prompts grow by equal ratios, those of answers by equal steps, in a different order.
        """
        stride = next(number for number in range(max(size // 3, 1), size + 2) if gcd(number, size) == 1)
        steps = max(size - 1, 1)
        requests = []
        for place in range(size):
            rank = (stride * place + size // 5) % size
            words = round(_SHORTEST * (_LONGEST / _SHORTEST) ** (rank / steps))
            requests.append(Request(self.passage(words), round(_FEWEST + (_MOST - _FEWEST) * place / steps)))
        return requests


def sample(requests: list[Request]) -> list[int]:
    """Return the indexes of about a quarter of a burst.

    They are the middle of each group of four, short and long ones alike.
    """
    return list(range(min(2, len(requests) - 1), len(requests), 4))
