"""Promise: OpenAI's own client gets embeddings as from OpenAI."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import numpy as np
import pytest

from hf_runtime.contract.errors import InvalidRequest
from tests.hf_runtime.api.openai_server import Server

VECTOR = np.array([0.1, -2.5, 3e-8], dtype=np.float32)


@pytest.fixture(autouse=True)
def vectors(server: Server) -> None:
    server.embedder.script = lambda index: {"embedding": VECTOR * (index + 1), "prompt_tokens": 4 + index}


@pytest.mark.parametrize(
    ("given", "instances"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_inputs_are_strings_or_tokens_one_or_many(server: Server, given: Any, instances: Any) -> None:
    answer = server.openai.embeddings.create(model="embedder", input=given)
    assert server.embedder.submitted == [(instance, {"details": True}) for instance in instances]
    assert [entry.index for entry in answer.data] == list(range(len(instances)))


def test_an_answer_is_a_list_of_embedding_objects(server: Server) -> None:
    answer = server.http.post("/openai/v1/embeddings", json={"model": "embedder", "input": ["a", "b"]})
    document = answer.json()
    assert [entry.pop("embedding") for entry in document["data"]] == [
        pytest.approx(VECTOR.tolist()), pytest.approx((VECTOR * 2).tolist()),
    ]  # fmt: skip
    assert document == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0}, {"object": "embedding", "index": 1}],
        "model": "embedder",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


def test_base64_is_the_same_vector_in_little_endian_float32(server: Server) -> None:
    body = {"model": "embedder", "input": "a", "encoding_format": "base64"}
    document = server.http.post("/openai/v1/embeddings", json=body).json()
    assert np.frombuffer(b64decode(document["data"][0]["embedding"]), "<f4").tolist() == VECTOR.tolist()


def test_the_official_client_reads_both_forms(server: Server) -> None:
    for form in ({}, {"encoding_format": "float"}):
        answer = server.openai.embeddings.create(model="embedder", input="a", **form)  # type: ignore[arg-type]
        assert np.array(answer.data[0].embedding, np.float32).shape == (3,)


def test_dimensions_and_truncation_reach_the_model(server: Server) -> None:
    server.openai.embeddings.create(
        model="embedder", input="a", dimensions=2, user="me", extra_body={"truncation": True}
    )
    assert server.embedder.parameters == [{"details": True, "dimensions": 2, "truncation": True}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", None]}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(server: Server, fields: Any, param: str) -> None:
    response = server.http.post("/openai/v1/embeddings", json={"model": "embedder", "input": "a", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_model_that_answers_one_vector_per_token_is_a_400_that_names_the_model(server: Server) -> None:
    server.embedder.script = lambda _: InvalidRequest("the model answers a vector a token", field="parameters.details")
    response = server.http.post("/openai/v1/embeddings", json={"model": "embedder", "input": "a"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"
    assert response.json()["error"]["message"] == "model: the model answers a vector a token"


def test_a_refused_input_is_named(server: Server) -> None:
    server.embedder.script = lambda index: InvalidRequest("has 600 tokens") if index else {}
    response = server.http.post("/openai/v1/embeddings", json={"model": "embedder", "input": ["a", "b"]})
    assert response.json()["error"]["param"] == "input[1]"
    assert response.json()["error"]["message"] == "input[1]: has 600 tokens"
