"""The promise that no mistake of a client of the newer chat APIs is a 5xx, for fields of every kind in every place."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from hf_runtime.api.anthropic.messages import MessagesRequest
from hf_runtime.api.openai.responses import ResponseRequest
from hf_runtime.api.tokenization import DetokenizeRequest, TokenizeChatRequest, TokenizePromptRequest
from tests.hf_runtime.api.openai_server import Server

_WORDS = st.sampled_from(
    [
        "", "a", "role", "user", "assistant", "tool", "content", "type", "text", "function", "name", "arguments", "id",
        "message", "input_text", "function_call", "function_call_output", "reasoning", "call_id", "output", "format",
        "json_schema", "schema", "tool_use", "tool_result", "tool_use_id", "input", "thinking", "input_schema", "auto",
    ]
)  # fmt: skip
_LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e300, 1e300) | _WORDS
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=5), max_leaves=12
)


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/openai/v1/responses", ResponseRequest, {"model": "writer", "input": "a"}),
        (
            "/v1/messages",
            MessagesRequest,
            {"model": "writer", "max_tokens": 3, "messages": [{"role": "user", "content": "a"}]},
        ),
        (
            "/v1/messages/count_tokens",
            MessagesRequest,
            {"model": "writer", "messages": [{"role": "user", "content": "a"}]},
        ),
        ("/tokenize", TokenizePromptRequest, {"model": "writer", "prompt": "a"}),
        ("/tokenize", TokenizeChatRequest, {"model": "writer", "messages": [{"role": "user", "content": "a"}]}),
        ("/detokenize", DetokenizeRequest, {"model": "writer", "tokens": [1]}),
    ],
)
def test_no_body_is_a_5xx(server: Server, path: str, kind: Any, body: dict[str, Any]) -> None:
    names = st.sampled_from(sorted({*kind.model_fields, *kind.ignored, *kind.not_offered, "unheard_of"}))

    @settings(max_examples=200, deadline=None)
    @given(st.dictionaries(names, _VALUES, min_size=1, max_size=3))
    def check(fields: dict[str, Any]) -> None:
        response = server.http.post(path, json={**body, **fields})
        if response.status_code != 200:
            assert response.status_code in (400, 404, 413)
            assert set(response.json()["error"]) <= {"message", "type", "param", "code"}

    check()
