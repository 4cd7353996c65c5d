"""Promise: pieces of text are whole characters, join to the text of all tokens, and show nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.engines.generate.text import TextStream
from tests.tiny import byte_level_tokenizer, metaspace_tokenizer, wordpiece_tokenizer

BYTES: Any = byte_level_tokenizer()
WORDS: Any = wordpiece_tokenizer()


def _pieces(tokenizer: Any, tokens: list[int], before: Sequence[int] = (), stop: Sequence[str] = ()) -> list[str]:
    stream = TextStream(tokenizer, before, stop)
    pieces = []
    for token in tokens:
        pieces.append(stream.feed(token))
        if stream.stopped:
            return pieces
    return [*pieces, stream.end()]


@given(st.text(max_size=40))
def test_pieces_of_any_text_join_to_it_and_break_no_character(text: str) -> None:
    pieces = _pieces(BYTES, BYTES(text, add_special_tokens=False)["input_ids"])
    expected = BYTES.decode(BYTES(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    assert "".join(pieces) == expected
    if "\ufffd" not in expected:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(1, len(BYTES) - 1), max_size=40))
def test_bytes_that_are_no_text_are_shown_as_the_decoder_shows_them(tokens: list[int]) -> None:
    assert "".join(_pieces(BYTES, tokens)) == BYTES.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS])
@given(data=st.data())
def test_text_that_is_taken_at_the_end_is_what_pieces_of_it_join_to(tokenizer: Any, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(1, len(tokenizer) - 1), max_size=40))
    before = data.draw(st.lists(st.integers(1, len(tokenizer) - 1), max_size=12))
    stream = TextStream(tokenizer, before, ())
    for token in tokens:
        stream.append(token)
    assert stream.end() == stream.text == "".join(_pieces(tokenizer, tokens, before))


@pytest.mark.parametrize("text", ["family 👨‍👩‍👧‍👦 of four", "東京は日本の首都です", "Ωμέγα και άλφα", "🙂"])
def test_an_emoji_or_a_word_in_chinese_characters_comes_whole(text: str) -> None:
    tokens = BYTES(text)["input_ids"]
    assert len(tokens) > len(text)
    pieces = _pieces(BYTES, tokens)
    assert "".join(pieces) == text
    assert all(piece == "" or piece in text for piece in pieces)
    assert "\ufffd" not in "".join(pieces)


def test_words_keep_the_spaces_between_them() -> None:
    tokens = WORDS("I love this movie and the capital of France", add_special_tokens=False)["input_ids"]
    assert "".join(_pieces(WORDS, tokens)) == WORDS.decode(tokens)
    assert "".join(_pieces(WORDS, tokens[3:], before=tokens[:3])).startswith(" ")


@pytest.mark.parametrize("specials", [0, 1, 7, 8, 9, 40])
@pytest.mark.parametrize("at", ["in the prompt", "in the text"])
def test_a_word_behind_many_special_tokens_keeps_its_space(specials: int, at: str) -> None:
    tokenizer: Any = metaspace_tokenizer()
    prompt, words = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Paris is", "the capital"))
    marks = [2] * specials
    before, new = ([*prompt, *marks], words) if at == "in the prompt" else (prompt, [*marks, *words])
    assert "".join(_pieces(tokenizer, new, before)) == " the capital"


@settings(max_examples=300)
@given(st.text("ab ", max_size=30), st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string_wherever_tokens_break_it(text: str, stop: list[str]) -> None:
    pieces = _pieces(BYTES, BYTES(text)["input_ids"], stop=stop)
    joined = "".join(pieces)
    assert not any(string in joined for string in stop)
    found = [string for string in stop if string in text]
    if not found:
        assert joined == text
    else:
        # What follows is a stop string; of several, that which is complete first.
        assert text.startswith(joined)
        assert any(text.startswith(string, len(joined)) for string in found)


def test_nothing_is_held_back_that_begins_no_stop_string() -> None:
    tokens = BYTES("I love this movie")["input_ids"]
    stream = TextStream(BYTES, [], ["zzz"])
    assert all(stream.feed(token) for token in tokens)


def test_senseless_bytes_are_given_out_on_the_way_and_not_kept_for_the_end() -> None:
    (broken,) = BYTES("\u6771", add_special_tokens=False)["input_ids"][:1]
    stream = TextStream(BYTES, [], [])
    pieces = [stream.feed(broken) for _ in range(200)]
    assert sum(map(len, pieces)) > 150
    assert len(stream._window) < 30
    whole = "".join(pieces) + stream.end()
    assert whole == BYTES.decode([broken] * 200)
