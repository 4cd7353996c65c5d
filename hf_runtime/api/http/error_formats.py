"""Format of an error, which follows from the path of its request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_runtime.api.anthropic.errors import describe_anthropic_error
from hf_runtime.api.http.error_response import describe_error
from hf_runtime.api.openai.errors import describe_openai_error
from hf_runtime.contract.errors import ServingError

#: Starts of paths, and the format of their errors; the first that fits counts.
_STARTS: tuple[tuple[str, Callable[[ServingError], Any]], ...] = (
    ("/anthropic", describe_anthropic_error),
    ("/openai/v1/messages", describe_anthropic_error),
    ("/v1/messages", describe_anthropic_error),
    ("/openai", describe_openai_error),
    ("/v1/responses", describe_openai_error),
    ("/tokenize", describe_openai_error),
    ("/detokenize", describe_openai_error),
)


def find_error_format(path: str) -> Callable[[ServingError], Any]:
    """Return the function that describes errors in the format that a path's clients read."""
    for start, describe in _STARTS:
        if path == start or path.startswith(f"{start}/"):
            return describe
    return describe_error
