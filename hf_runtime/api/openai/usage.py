"""Token counts of an answer.

Source: https://platform.openai.com/docs/api-reference/completions/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired

from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type


@answer_type
class CachedTokens(TypedDict):
    """Tokens that need not be computed, because another prompt began with the same."""

    cached_tokens: int


@answer_type
class TokenUsage(TypedDict):
    """Token counts of an answer."""

    prompt_tokens: int
    completion_tokens: NotRequired[int]
    total_tokens: int
    prompt_tokens_details: NotRequired[CachedTokens]


class UsageCounter:
    """Counter of the tokens of a request's choices.

    Args:
        n: choices per prompt; a prompt is counted once for all of them.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._completion: dict[int, int] = {}
        self._prompts: dict[int, Mapping[str, Any]] = {}

    def add(self, index: int, answer: Mapping[str, Any]) -> None:
        """Count a choice by its answer, or by a delta with the counts so far."""
        self._completion[index] = answer["generated_tokens"]
        # Prefer the first choice: only its count of cached tokens is from before the request.
        if index % self._n == 0 or index // self._n not in self._prompts:
            self._prompts[index // self._n] = answer

    def count_tokens(self) -> TokenUsage:
        """Return the counts of all choices that were added."""
        prompt = sum(answer["prompt_tokens"] for answer in self._prompts.values())
        cached = [answer["cached_tokens"] for answer in self._prompts.values() if "cached_tokens" in answer]
        completion = sum(self._completion.values())
        usage: TokenUsage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        if cached:
            usage["prompt_tokens_details"] = {"cached_tokens": sum(cached)}
        return usage
