"""Paths of protocols that lie between those of others, and the format of errors by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from hf_runtime.api.anthropic.errors import describe_anthropic_error
from hf_runtime.api.http.error_response import describe_error
from hf_runtime.api.openai.errors import describe_openai_error
from hf_runtime.contract.errors import ServingError

RESPONSES_PATHS = ("/openai/v1/responses", "/v1/responses")
MESSAGES_PATHS = ("/v1/messages", "/openai/v1/messages", "/anthropic/v1/messages")
COUNT_TOKENS_PATHS = tuple(f"{path}/count_tokens" for path in MESSAGES_PATHS)

_OPENAI = frozenset(RESPONSES_PATHS)
_ANTHROPIC = frozenset({*MESSAGES_PATHS, *COUNT_TOKENS_PATHS})

ErrorFormat = Literal["kserve", "openai", "anthropic"]

_DESCRIBE: dict[ErrorFormat, Callable[[ServingError], Any]] = {
    "kserve": describe_error,
    "openai": describe_openai_error,
    "anthropic": describe_anthropic_error,
}


def find_error_format(path: str) -> ErrorFormat:
    """Return the format of the errors of a path."""
    if path in _ANTHROPIC or path.startswith("/anthropic/"):
        return "anthropic"
    return "openai" if path in _OPENAI or path.startswith("/openai/") else "kserve"


def describe_error_for(path: str, error: ServingError) -> Any:
    """Return the body of an error in the format of a path."""
    return _DESCRIBE[find_error_format(path)](error)
