"""Promise: a stack trace names the place and kind of an error and quotes no payload."""

from __future__ import annotations

import pytest
import torch

from hf_runtime.observability.tracebacks import format_without_payload


def _raised(error: Exception) -> str:
    try:
        raise error
    except Exception as raised:
        return format_without_payload(raised)


def test_a_stack_trace_names_place_and_kind_but_not_the_message() -> None:
    told = _raised(KeyError("a client's text"))  # not a line of the stack
    assert told.startswith("Traceback (most recent call last):\n")
    assert "in _raised\n    raise error\n" in told
    assert "KeyError: [" in told
    assert "client's text" not in told


def test_neither_causes_nor_parts_of_a_group_are_quoted() -> None:
    quoted = "a client's words"
    told = ""
    try:
        try:
            raise KeyError(quoted)
        except KeyError as first:
            raise ValueError(quoted) from first
    except ValueError as second:
        told = _raised(ExceptionGroup(quoted, [second]))
    for part in ("KeyError: [", "direct cause", "ValueError: [", "ExceptionGroup: ["):
        assert part in told
    assert quoted not in told


def test_a_suppressed_context_is_not_shown() -> None:
    error = RuntimeError()
    error.__context__, error.__suppress_context__ = KeyError(), True
    assert "KeyError" not in format_without_payload(error)
    error.__suppress_context__ = False
    assert "KeyError" in format_without_payload(error)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("2 GiB"), MemoryError("2 GiB")])
def test_a_message_about_memory_is_shown(error: Exception) -> None:
    assert "2 GiB" in _raised(error)


def test_torchs_message_about_an_index_is_shown() -> None:
    with pytest.raises(IndexError) as caught:
        torch.nn.functional.embedding(torch.tensor([7]), torch.zeros(2, 2))
    assert "index out of range" in format_without_payload(caught.value)
