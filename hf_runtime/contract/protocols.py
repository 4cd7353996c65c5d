"""Protocols of the server, and the paths that belong to each."""

from __future__ import annotations

from typing import Literal

Protocol = Literal["v1", "v2", "openai", "anthropic"]

#: Starts of paths, and the protocol that each belongs to; the first that fits counts. OpenAI's API is also under `/v1`,
#: next to KServe's `/v1/models`.
_STARTS: tuple[tuple[str, Protocol], ...] = (
    ("/anthropic", "anthropic"),
    ("/openai/v1/messages", "anthropic"),
    ("/v1/messages", "anthropic"),
    ("/openai", "openai"),
    ("/v1/responses", "openai"),
    ("/tokenize", "openai"),
    ("/detokenize", "openai"),
    ("/v1/chat/completions", "openai"),
    ("/v1/completions", "openai"),
    ("/v1/embeddings", "openai"),
    ("/v1", "v1"),
    ("/v2", "v2"),
)


def find_protocol(path: str) -> Protocol | None:
    """Return the protocol that a path belongs to; None for others, such as `/metrics`."""
    for start, protocol in _STARTS:
        if path == start or path.startswith(f"{start}/"):
            return protocol
    return None
