"""Promise: deltas are whole characters, join to the text, and show no stop string."""

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


def _deltas(tokenizer: Any, tokens: list[int], before: Sequence[int] = (), stop: Sequence[str] = ()) -> list[str]:
    stream = TextStream(tokenizer, before, stop)
    deltas = []
    for token in tokens:
        deltas.append(stream.feed(token))
        if stream.stopped:
            return deltas
    return [*deltas, stream.end()]


@given(st.text(max_size=40))
def test_deltas_of_any_text_join_to_it_and_break_no_character(text: str) -> None:
    deltas = _deltas(BYTES, BYTES(text, add_special_tokens=False)["input_ids"])
    expected = BYTES.decode(BYTES(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    assert "".join(deltas) == expected
    if "\ufffd" not in expected:
        assert not any("\ufffd" in delta for delta in deltas)


@given(st.lists(st.integers(1, len(BYTES) - 1), max_size=40))
def test_invalid_bytes_are_shown_as_the_decoder_shows_them(tokens: list[int]) -> None:
    assert "".join(_deltas(BYTES, tokens)) == BYTES.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS])
@given(data=st.data())
def test_deltas_join_to_the_text_returned_at_the_end(tokenizer: Any, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(1, len(tokenizer) - 1), max_size=40))
    before = data.draw(st.lists(st.integers(1, len(tokenizer) - 1), max_size=12))
    stream = TextStream(tokenizer, before, ())
    for token in tokens:
        stream.append(token)
    assert stream.end() == stream.text == "".join(_deltas(tokenizer, tokens, before))


@pytest.mark.parametrize("text", ["family 👨‍👩‍👧‍👦 of four", "東京は日本の首都です", "Ωμέγα και άλφα", "🙂"])
def test_an_emoji_or_a_word_in_chinese_characters_comes_whole(text: str) -> None:
    tokens = BYTES(text)["input_ids"]
    assert len(tokens) > len(text)
    deltas = _deltas(BYTES, tokens)
    assert "".join(deltas) == text
    assert all(delta == "" or delta in text for delta in deltas)
    assert "\ufffd" not in "".join(deltas)


def test_words_keep_the_spaces_between_them() -> None:
    tokens = WORDS("I love this movie and the capital of France", add_special_tokens=False)["input_ids"]
    assert "".join(_deltas(WORDS, tokens)) == WORDS.decode(tokens)
    assert "".join(_deltas(WORDS, tokens[3:], before=tokens[:3])).startswith(" ")


@pytest.mark.parametrize("specials", [0, 1, 7, 8, 9, 40])
@pytest.mark.parametrize("at", ["in the prompt", "in the text"])
def test_a_word_after_many_special_tokens_keeps_its_space(specials: int, at: str) -> None:
    tokenizer: Any = metaspace_tokenizer()
    prompt, words = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Paris is", "the capital"))
    marks = [2] * specials
    before, new = ([*prompt, *marks], words) if at == "in the prompt" else (prompt, [*marks, *words])
    assert "".join(_deltas(tokenizer, new, before)) == " the capital"


@settings(max_examples=300)
@given(st.text("ab ", max_size=30), st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string_for_any_token_boundaries(text: str, stop: list[str]) -> None:
    deltas = _deltas(BYTES, BYTES(text)["input_ids"], stop=stop)
    joined = "".join(deltas)
    assert not any(string in joined for string in stop)
    found = [string for string in stop if string in text]
    if not found:
        assert joined == text
    else:
        # The text that follows is a stop string; of several, the one that is complete first.
        assert text.startswith(joined)
        assert any(text.startswith(string, len(joined)) for string in found)


def test_text_that_begins_no_stop_string_is_not_held_back() -> None:
    tokens = BYTES("I love this movie")["input_ids"]
    stream = TextStream(BYTES, [], ["zzz"])
    assert all(stream.feed(token) for token in tokens)


def test_invalid_bytes_are_emitted_early_and_not_held_until_the_end() -> None:
    (broken,) = BYTES("\u6771", add_special_tokens=False)["input_ids"][:1]
    stream = TextStream(BYTES, [], [])
    deltas = [stream.feed(broken) for _ in range(200)]
    assert sum(map(len, deltas)) > 150
    assert len(stream._window) < 30
    whole = "".join(deltas) + stream.end()
    assert whole == BYTES.decode([broken] * 200)
