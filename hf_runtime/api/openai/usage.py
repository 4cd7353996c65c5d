"""What an answer cost, in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Usage:
    """Counts the tokens of a request's choices as they end.

    Args:
        n: choices of each prompt; a prompt is counted once for all of them.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._completion = 0
        self._prompts: dict[int, Mapping[str, Any]] = {}

    def add(self, index: int, answer: Mapping[str, Any]) -> None:
        """Count a choice by its answer, or by the last piece of it."""
        self._completion += answer["generated_tokens"]
        # The first choice's, if it comes: only it can tell what was cached before the request.
        if index % self._n == 0 or index // self._n not in self._prompts:
            self._prompts[index // self._n] = answer

    def counts(self) -> dict[str, Any]:
        """OpenAI's `usage` (https://platform.openai.com/docs/api-reference/completions/object)."""
        prompt = sum(answer["prompt_tokens"] for answer in self._prompts.values())
        cached = [answer["cached_tokens"] for answer in self._prompts.values() if "cached_tokens" in answer]
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": self._completion,
            "total_tokens": prompt + self._completion,
        }
        return {**counts, "prompt_tokens_details": {"cached_tokens": sum(cached)}} if cached else counts
