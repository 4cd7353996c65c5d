"""Promise: no client mistake is answered with a 5xx, for any value in any field."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from hf_runtime.api.openai.chat import ChatRequest
from hf_runtime.api.openai.completions import CompletionRequest
from hf_runtime.api.openai.embeddings import EmbeddingRequest
from hf_runtime.api.openai.unserved import IGNORED, NOT_OFFERED
from tests.hf_runtime.api.openai_server import Server

_WORDS = st.sampled_from(
    ["", "a", "role", "user", "assistant", "tool", "content", "type", "text", "function", "name", "arguments", "id"]
)
_LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e300, 1e300) | _WORDS
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4), max_leaves=8
)


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("completions", CompletionRequest, {"model": "writer", "prompt": "a"}),
        ("chat/completions", ChatRequest, {"model": "writer", "messages": [{"role": "user", "content": "a"}]}),
        ("embeddings", EmbeddingRequest, {"model": "embedder", "input": "a"}),
    ],
)
def test_no_body_is_a_5xx(server: Server, path: str, kind: Any, body: dict[str, Any]) -> None:
    server.embedder.script = lambda _: {"embedding": np.zeros(2, np.float32), "prompt_tokens": 1}
    names = st.sampled_from(sorted({*kind.model_fields, *IGNORED, *NOT_OFFERED, "unheard_of"}))

    @settings(max_examples=200, deadline=None)
    @given(st.dictionaries(names, _VALUES, min_size=1, max_size=3))
    def check(fields: dict[str, Any]) -> None:
        response = server.http.post(f"/openai/v1/{path}", json={**body, **fields})
        if response.status_code != 200:
            assert response.status_code in (400, 404, 413)
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    check()
