"""Promises of tokenize and detokenize, and of Anthropic's count of tokens: no item is computed for them."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import Anthropic
from starlette.testclient import TestClient

from hf_runtime.contract.errors import InvalidRequest, Overloaded
from hf_runtime.contract.tokenization import Detokenize, TokenizeChat, TokenizeText
from hf_runtime.rpc.messages import ModelState
from tests.hf_runtime.api.openai_server import ScriptedClient, Server, app, serving

HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"default": None}}}


def _post(server: Server, path: str, **body: Any) -> Any:
    return server.http.post(path, json=body)


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        ({"prompt": "a"}, TokenizeText("a")),
        ({"prompt": ""}, TokenizeText("")),
        (
            {"prompt": "a", "add_special_tokens": False, "return_token_strs": True},
            TokenizeText("a", add_special_tokens=False, with_names=True),
        ),
        ({"prompt": "a", "messages": None, "priority": 1}, TokenizeText("a")),
        ({"messages": HELLO}, TokenizeChat({"messages": HELLO})),
        (
            {"messages": HELLO, "tools": [TOOL], "return_token_strs": True, "add_special_tokens": False},
            TokenizeChat({"messages": HELLO, "tools": [TOOL]}, with_names=True),
        ),
        (
            {"messages": HELLO, "add_generation_prompt": False, "chat_template_kwargs": {"a": None}},
            TokenizeChat({"messages": HELLO, "add_generation_prompt": False, "chat_template_kwargs": {"a": None}}),
        ),
    ],
)
def test_a_text_or_a_chat_is_tokenized(server: Server, body: Any, request_: Any) -> None:
    answer = _post(server, "/tokenize", model="writer", **body)
    assert (answer.status_code, answer.json()) == (
        200, {"count": 3, "max_model_len": 64, "tokens": [1, 2, 3], "token_strs": None},
    )  # fmt: skip
    assert server.writer.tokenized == [request_]
    assert server.writer.submitted == []


def test_tokens_are_turned_into_text_by_a_model_of_any_task(server: Server) -> None:
    assert _post(server, "/detokenize", model="embedder", tokens=[1, 2, 3]).json() == {"prompt": "abc"}
    assert server.embedder.tokenized == [Detokenize([1, 2, 3])]


def test_the_only_model_needs_no_name() -> None:
    client = ScriptedClient("only", ModelState("ready"))
    with TestClient(app([client])) as http:
        assert http.post("/tokenize", json={"prompt": "a"}).status_code == 200
        assert http.post("/detokenize", json={"tokens": [1]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        ("/tokenize", {"inputs": "a"}, None, "prompt (a text) or messages (a chat)"),
        ("/tokenize", {}, None, "prompt (a text) or messages (a chat)"),
        ("/tokenize", {"prompt": "a", "model": None}, "model", "writer"),
        ("/tokenize", {"prompt": 7}, "prompt", "string"),
        ("/tokenize", {"messages": []}, "messages", "at least 1"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ("/tokenize", {"messages": HELLO, "add_special_tokens": True}, "add_special_tokens", "False"),
        ("/tokenize", {"messages": HELLO, "chat_template": "x"}, "chat_template", "model's own"),
        ("/detokenize", {}, "tokens", "required"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]", "integer"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]", "whole number"),
        ("/detokenize", {"tokens": [2**63]}, "tokens[0]", "whole number"),
    ],
)
def test_what_is_wrong_is_a_400_in_the_format_of_openai(
    server: Server, path: str, body: Any, param: str | None, said: str
) -> None:
    response = _post(server, path, **{"model": "writer", **body})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert said in error["message"]


def test_errors_of_the_tokenizer_reach_the_client(server: Server) -> None:
    server.writer.tokens = InvalidRequest("the model has no chat template", field="messages")
    response = _post(server, "/tokenize", model="writer", messages=HELLO)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")
    server.writer.tokens = Overloaded("full", retry_after=1)
    assert _post(server, "/detokenize", model="writer", tokens=[1]).status_code == 429
    assert _post(server, "/tokenize", model="missing", prompt="a").json()["error"]["code"] == "model_not_found"
    assert _post(server, "/tokenize", model="slow", prompt="a").status_code == 503
    assert server.http.get("/tokenize").status_code == 405
    with serving(API_KEYS="secret") as guarded:
        for path in ("/tokenize", "/detokenize"):
            refused = guarded.http.post(path, json={})
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def test_the_official_client_of_anthropic_counts_the_tokens_of_a_prompt(server: Server) -> None:
    tool: Any = {"name": "weather", "input_schema": {"type": "object"}}
    client = Anthropic(base_url="http://testserver", api_key="none", http_client=server.http, max_retries=0)
    counted = client.messages.count_tokens(
        model="writer", messages=HELLO, system="Be kind.", tools=[tool], tool_choice={"type": "any"}
    )
    assert counted.input_tokens == 3
    (request,) = server.writer.tokenized
    assert request == TokenizeChat(
        {
            "messages": [{"role": "system", "content": "Be kind."}, *HELLO],
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
            "tool_choice": "required",
            "parallel_tool_calls": True,
        }
    )
    for path in ("/v1/messages", "/openai/v1/messages", "/anthropic/v1/messages"):
        body = {"model": "writer", "messages": HELLO, "max_tokens": 5, "stop_sequences": ["a"]}
        assert server.http.post(f"{path}/count_tokens", json=body).json() == {"input_tokens": 3}
        refused = server.http.post(f"{path}/count_tokens", json={"model": "writer"})
        assert (refused.status_code, refused.json()["type"]) == (400, "error")
