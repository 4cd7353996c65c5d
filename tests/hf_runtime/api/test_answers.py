"""Promise: an answer that JSON cannot encode is an error of its own instance only."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np
import orjson
import pytest

from hf_runtime.contract.signature import Signature
from tests.hf_runtime.api.openai_server import Server, generated_result

SECRET = "what a client wrote"


def _deep(levels: int) -> Any:
    deep: Any = SECRET
    for _ in range(levels):
        deep = [deep]
    return deep


#: Values that a model's answer may hold and JSON may not.
BAD: dict[str, Any] = {
    "NaN": [SECRET, math.nan], "infinity": {SECRET: -math.inf}, "NaN in an array": np.array([1, math.nan], np.float32),
    "NaN in numpy's": [np.float64(math.nan)], "NaN beside nothing": [None, {"a": (math.nan, SECRET)}],
    "texts": np.array([SECRET]), "complex": np.array([1j]), "key": {(SECRET, 1): 1}, "bytes": {b"a": SECRET},
    "deep": _deep(300), "half": SECRET + "\ud83d", "integer": [SECRET, 2**64], "object": [SECRET, object()],
}  # fmt: skip
FAILED = "the model's answer cannot be sent: it holds "


@pytest.fixture(autouse=True)
def _no_answer_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    logged = "\n".join(logging.Formatter().format(record) for record in caplog.get_records("call"))
    assert "cannot be written" in logged
    assert SECRET not in logged


@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize("bad", BAD)
def test_v1_names_the_instance_whose_answer_cannot_be_encoded(server: Server, bad: str, event: bool) -> None:
    server.writer.script = lambda index: BAD[bad] if index == 1 else "good"
    headers = {"ce-id": "1", "ce-source": "a", "ce-type": "b", "ce-specversion": "1.0"} if event else {}
    response = server.http.post("/v1/models/writer:predict", json={"instances": ["a", "b", "c"]}, headers=headers)
    assert response.status_code == 500
    assert response.json()["error"].startswith(f"instances[1]: {FAILED}")
    assert SECRET not in response.text


@pytest.mark.parametrize("bad", sorted(set(BAD) - {"NaN in an array"}))
def test_v2_names_the_instance_whose_answer_cannot_be_encoded(server: Server, bad: str) -> None:
    server.writer.signature = Signature()
    server.writer.script = lambda index: BAD[bad] if index == 1 else "good"
    inputs = [{"name": "text", "shape": [3], "datatype": "BYTES", "data": ["a", "b", "c"]}]
    response = server.http.post("/v2/models/writer/infer", json={"inputs": inputs})
    assert response.status_code == 500
    assert response.json()["error"].startswith(f"inputs[0].data[1]: {FAILED}")


@pytest.mark.parametrize(("field", "value"), [("generated_text", "\ud83d"), ("generated_tokens", 2**64)])
@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/openai/v1/completions", {"model": "writer", "prompt": ["a", "b"]}, "prompt[1]"),
        ("/openai/v1/completions", {"model": "writer", "prompt": ["a"], "n": 2}, "prompt[0]"),
        ("/openai/v1/chat/completions", {"model": "writer", "messages": [{"role": "user", "content": "a"}], "n": 2},
         "messages"),
    ],
)  # fmt: skip
def test_openai_names_the_prompt_whose_answer_cannot_be_encoded(
    server: Server, path: str, body: Any, place: str, field: str, value: Any
) -> None:
    bad = {**generated_result(SECRET), field: value}
    server.writer.script = lambda index: [bad] if index == 1 else [generated_result("good")]
    response = server.http.post(path, json=body)
    assert response.status_code == 500
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("server_error", place)
    assert error["message"].startswith(f"{place}: {FAILED}")


def test_embeddings_name_the_input_whose_vector_cannot_be_encoded(server: Server) -> None:
    vectors = [np.ones(2, np.float32), np.array([1, math.nan], np.float32)]
    server.embedder.script = lambda index: {"embedding": vectors[index], "prompt_tokens": 1}
    response = server.http.post("/openai/v1/embeddings", json={"model": "embedder", "input": ["a", "b"]})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == f"input[1]: {FAILED}NaN or infinity"


def test_generate_names_the_input_whose_answer_cannot_be_encoded(server: Server) -> None:
    server.writer.script = lambda _: [generated_result("\ud83d")]
    response = server.http.post("/v2/models/writer/generate", json={"text_input": "a"})
    assert response.status_code == 500
    assert response.json() == {"error": f"text_input: {FAILED}half of a character"}


@pytest.mark.parametrize("bad", BAD)
def test_a_stream_of_v1_cancels_the_item_and_continues_the_others(server: Server, bad: str) -> None:
    delta = {"generated_text": BAD[bad]}
    server.writer.script = lambda i: [{"generated_text": "a"}, *([delta] * (i == 1)), generated_result("b")]
    response = server.http.post(
        "/v1/models/writer:predict", json={"instances": ["a", "b", "c"], "parameters": {"stream": True}}
    )
    lines = [json.loads(line) for line in response.text.splitlines()]
    told = {i: [line for line in lines if line["index"] == i] for i in range(3)}
    assert [line["generated_text"] for line in told[0]] == [line["generated_text"] for line in told[2]] == ["a", "b"]
    first, last = told[1]
    assert first["generated_text"] == "a"
    assert last["finish_reason"] == "error"
    assert last["error"].startswith(f"instances[1]: {FAILED}")
    assert SECRET not in response.text


@pytest.mark.parametrize("delta", [{"generated_text": "\ud83d"}, {}, {"generated_text": {1, 2}}], ids=str)
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_stream_of_openai_ends_in_an_error_of_its_shape(server: Server, path: str, delta: dict[str, Any]) -> None:
    server.writer.script = lambda i: [delta, generated_result("late")] if i == 1 else [generated_result("good")]
    asked = {"prompt": "a"} if path == "completions" else {"messages": [{"role": "user", "content": "a"}]}
    events = server.events(path, model="writer", n=2, stream_options={"include_usage": True}, **asked)
    (error,) = [event["error"] for event in events if "error" in event]
    assert error["type"] == "server_error"
    assert (FAILED if delta else "the server failed; its log has the details") in error["message"]
    text = orjson.dumps(events).decode()
    assert "good" in text
    assert "late" not in text


def test_a_stream_of_generate_ends_in_an_error_of_its_shape(server: Server) -> None:
    server.writer.script = lambda _: [{"generated_text": "a"}, {"generated_text": "\ud83d"}, generated_result("late")]
    response = server.http.post("/v2/models/writer/generate_stream", json={"text_input": "a"})
    first, last = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event]
    assert first["text_output"] == "a"
    assert last["error"] == f"text_input: {FAILED}half of a character"
