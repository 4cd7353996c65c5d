"""Promise: V2 answers as KServe does where KServe is right, and with a clear 4xx elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from hf_runtime.api.app import create_app
from hf_runtime.api.inference import Models
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.signature import (
    ANSWER,
    ATTENTION_MASK,
    TEXT_OR_TOKENS_TO_JSON,
    TEXT_TO_JSON,
    Signature,
    TensorSpec,
)
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ServerSettings
from tests.hf_runtime.api.scripted_client import ScriptedClient

_PAIRS = Signature(
    (TensorSpec("text", "BYTES", (-1,)), TensorSpec("text_pair", "BYTES", (-1,))),
    (("text",), ("text", "text_pair")),
    (ANSWER, TensorSpec("label", "BYTES", (-1, -1)), TensorSpec("score", "FP32", (-1, -1))),
)
_QUESTIONS = Signature(
    (TensorSpec("question", "BYTES", (-1,)), TensorSpec("context", "BYTES", (-1,))),
    (("question", "context"),),
    (ANSWER,),
)
_VECTORS = Signature(
    TEXT_OR_TOKENS_TO_JSON.inputs,
    TEXT_OR_TOKENS_TO_JSON.instances,
    (TensorSpec("output-0", "FP32", (-1, -1, 2)), ATTENTION_MASK),
)


class _Model(ScriptedClient):
    """Client that answers as a model of its kind does."""

    def __init__(self, name: str, signature: Signature) -> None:
        super().__init__(name, ModelState("ready"))
        self.signature = signature
        self.given: list[Any] = []

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        self.given.append((instance, parameters))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        match self.name:
            case "classifier":
                labels = [{"label": "GOOD", "score": 0.75}, {"label": "ärger", "score": 0.25}]
                future.set_result(labels[: parameters.get("top_k", 1)])
            case "vectors":
                pooled = parameters.get("pooling") == "mean"
                tokens = len(instance)
                vector = np.full((1, tokens, 2), tokens, np.float32)
                future.set_result(vector[0, 0] if pooled else vector)
            case "anything":
                future.set_result(instance)
            case "writer":
                return self._submit_generation(future, instance, parameters, listener)
            case _:
                return super().submit(instance, parameters, listener)
        return future

    def _submit_generation(
        self, future: asyncio.Future[Any], text: str, parameters: dict[str, Any], listener: StreamListener | None
    ) -> asyncio.Future[Any]:
        token = {"token": "!", "id": 5, "logprob": -0.5, "bytes": [33], "special": False, "top": []}
        counts = {"finish_reason": "stop", "prompt_tokens": 1, "cached_tokens": 0, "generated_tokens": 1}
        counts |= {"stop_sequence": "!"} if parameters.get("stop") else {}
        detailed = parameters.get("details", False)
        logprobs = {"logprobs": [token]} if "logprobs" in parameters else {}
        if listener is None:
            future.set_result([{"generated_text": text.upper(), **(counts | logprobs if detailed else {})}])
        else:
            listener.on_accepted()
            listener.on_delta({"generated_text": text.upper(), **logprobs})
            listener.on_delta({"generated_text": "", **counts})
            future.set_result(None)
        return future


@pytest.fixture
def clients() -> dict[str, ScriptedClient]:
    models: list[ScriptedClient] = [
        _Model("x", TEXT_TO_JSON),
        _Model("classifier", _PAIRS),
        _Model("questions", _QUESTIONS),
        _Model("vectors", _VECTORS),
        _Model("anything", Signature()),
        _Model("writer", TEXT_OR_TOKENS_TO_JSON),
        ScriptedClient("slow", ModelState("loading")),
    ]
    return {model.name: model for model in models}


@pytest.fixture
def http(clients: dict[str, ScriptedClient]) -> Iterator[TestClient]:
    @asynccontextmanager
    async def nothing(_: Starlette) -> AsyncIterator[None]:
        yield

    models = Models(clients, {"writer": "text-generation", "x": "fill-mask"})
    settings = ServerSettings(MAX_BODY_SIZE=10_000, MAX_INSTANCES=5, REQUEST_TIMEOUT=0.5)
    with TestClient(create_app(models, settings, nothing), raise_server_exceptions=False) as client:
        yield client


def _text(*texts: str, name: str = "text", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **more}


def _infer(http: TestClient, model: str, *inputs: dict[str, Any], **more: Any) -> Any:
    return http.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs), **more})


def _outputs(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("GET", "/v2/health/live", 200, {"live": True}),
        ("GET", "/v2/health/ready", 503, {"error": "Model with name slow is not ready."}),
        ("GET", "/v2/models/x/ready", 200, {"name": "x", "ready": True}),
        ("GET", "/v2/models/slow/ready", 503, {"error": "Model with name slow is not ready."}),
        ("GET", "/v2/models/slow", 503, {"error": "Model with name slow is not ready."}),
        ("POST", "/v2/models/slow/infer", 503, {"error": "Model with name slow is not ready."}),
        ("GET", "/v2/models/nope", 404, {"error": "Model with name nope does not exist."}),
        ("GET", "/v2/models/nope/ready", 404, {"error": "Model with name nope does not exist."}),
        ("POST", "/v2/models/nope/infer", 404, {"error": "Model with name nope does not exist."}),
        ("POST", "/v2/models/nope/versions/1/infer", 404, {"error": "Model with name nope does not exist."}),
        ("GET", "/v2/models/x/versions/1", 501, {"error": "Model versioning not supported yet."}),
        ("GET", "/v2/models/x/versions/1/ready", 501, {"error": "Model versioning not supported yet."}),
        ("POST", "/v2/models/x/versions/1/infer", 501, {"error": "Model versioning not supported yet."}),
        ("GET", "/v2/models/x/infer", 405, {"error": "/v2/models/x/infer does not take GET"}),
        ("GET", "/v2/nothing", 404, {"error": "/v2/nothing is not a route of this server"}),
    ],
)
def test_routes_answer_as_kserve_does(http: TestClient, method: str, path: str, status: int, answer: Any) -> None:
    response = http.request(method, path)
    assert (response.status_code, response.json()) == (status, answer)
    assert ("retry-after" in response.headers) == (status == 503)


def test_the_server_is_ready_when_every_model_is(http: TestClient, clients: dict[str, ScriptedClient]) -> None:
    clients["slow"].state = ModelState("ready")
    assert http.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_reports_its_name_version_and_extensions(http: TestClient, path: str) -> None:
    answer = http.get(path).json()
    assert (answer["name"], answer["version"]) == ("hugging-face-runtime", "0.1.0")
    assert {"binary_tensor_data", "model_repository_extension", "generate"} <= set(answer["extensions"])


def test_a_model_reports_its_tensors_and_which_of_them_are_optional(http: TestClient) -> None:
    assert http.get("/v2/models/classifier").json() == {
        "name": "classifier",
        "platform": "pytorch_transformers",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "text_pair", "datatype": "BYTES", "shape": [-1], "parameters": {"optional": True}},
        ],
        "outputs": [
            {"name": "output-0", "datatype": "BYTES", "shape": [-1]},
            {"name": "label", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
        ],
    }


def test_all_models_are_listed(http: TestClient, clients: dict[str, ScriptedClient]) -> None:
    assert http.get("/v2/models").json() == {"models": list(clients)}


def test_an_answer_repeats_the_requests_id_or_has_a_new_one(http: TestClient) -> None:
    assert _infer(http, "x", _text("a"), id="42").json()["id"] == "42"
    first, second = (_infer(http, "x", _text("a")).json()["id"] for _ in range(2))
    assert first != second
    assert len(first) == len(second) == 36


def test_answers_are_json_documents_in_the_order_of_instances_with_the_parameters_of_the_request(
    http: TestClient,
) -> None:
    response = _infer(http, "x", _text("a", "ü🙂"), parameters={"top_k": 2})
    assert response.headers["content-type"] == "application/json"
    assert response.json()["model_name"] == "x"
    output = _outputs(response)["output-0"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2])
    assert output["parameters"] == {"content_type": "json"}
    assert [json.loads(document) for document in output["data"]] == [["a", {"top_k": 2}], ["ü🙂", {"top_k": 2}]]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_single_tensor_of_strings_may_have_any_name_and_a_second_dimension(
    http: TestClient, shape: list[int]
) -> None:
    response = _infer(http, "x", _text("a", "b", name="input-0") | {"shape": shape})
    assert [json.loads(document)[0] for document in _outputs(response)["output-0"]["data"]] == ["a", "b"]


def test_labels_and_scores_are_typed_tensors(http: TestClient) -> None:
    outputs = _outputs(_infer(http, "classifier", _text("a", "b", "c"), parameters={"top_k": 2}))
    assert list(outputs) == ["output-0", "label", "score"]
    assert outputs["label"]["data"] == ["GOOD", "ärger"] * 3
    assert outputs["score"] == {"name": "score", "datatype": "FP32", "shape": [3, 2], "data": [0.75, 0.25] * 3}


def test_only_the_requested_outputs_are_answered_in_that_order(http: TestClient) -> None:
    asked = [{"name": "score"}, {"name": "label"}]
    assert list(_outputs(_infer(http, "classifier", _text("a"), outputs=asked))) == ["score", "label"]


def test_inputs_are_the_fields_of_an_instance(http: TestClient, clients: dict[str, ScriptedClient]) -> None:
    _infer(http, "questions", _text("in Linz", "in Graz", name="context"), _text("Who?", "When?", name="question"))
    _infer(http, "classifier", _text("a"), _text("b", name="text_pair"))
    questions, classifier = clients["questions"], clients["classifier"]
    assert isinstance(questions, _Model)
    assert isinstance(classifier, _Model)
    assert [instance for instance, _ in questions.given] == [
        {"question": "Who?", "context": "in Linz"},
        {"question": "When?", "context": "in Graz"},
    ]
    assert [instance for instance, _ in classifier.given] == [{"text": "a", "text_pair": "b"}]


def test_vectors_of_tokens_are_padded_and_their_mask_marks_the_end(http: TestClient) -> None:
    outputs = _outputs(_infer(http, "vectors", _text("ab", "a")))
    assert outputs["output-0"] == {
        "name": "output-0", "datatype": "FP32", "shape": [2, 2, 2], "data": [2, 2, 2, 2, 1, 1, 0, 0],
    }  # fmt: skip
    assert outputs["attention_mask"] == {
        "name": "attention_mask", "datatype": "INT64", "shape": [2, 2], "data": [1, 1, 1, 0],
    }  # fmt: skip


def test_one_vector_per_input_is_a_tensor_without_a_mask(http: TestClient) -> None:
    outputs = _outputs(_infer(http, "vectors", _text("ab", "a"), parameters={"pooling": "mean"}))
    assert outputs == {"output-0": {"name": "output-0", "datatype": "FP32", "shape": [2, 2], "data": [2, 2, 1, 1]}}


def test_token_ids_are_rows_of_whole_numbers(http: TestClient, clients: dict[str, ScriptedClient]) -> None:
    ids = {"name": "input_ids", "shape": [2, 3], "datatype": "INT32", "data": [1, 2, 3, 4, 5, 6]}
    assert _infer(http, "vectors", ids).status_code == 200
    vectors = clients["vectors"]
    assert isinstance(vectors, _Model)
    assert [instance for instance, _ in vectors.given] == [[1, 2, 3], [4, 5, 6]]


def test_instances_can_be_json_documents(http: TestClient, clients: dict[str, ScriptedClient]) -> None:
    document = _text('{"question": "Who?", "context": "in Linz"}', name="any", parameters={"content_type": "json"})
    assert _infer(http, "questions", document).status_code == 200
    questions = clients["questions"]
    assert isinstance(questions, _Model)
    assert questions.given == [({"question": "Who?", "context": "in Linz"}, {})]


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ({"shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}, ("FP32", [2, 2], [1, 2, 3, 4])),
        ({"shape": [2], "datatype": "INT8", "data": [1, 2]}, ("INT64", [2], [1, 2])),
        ({"shape": [2], "datatype": "BOOL", "data": [True, False]}, ("BOOL", [2], [True, False])),
        ({"shape": [2], "datatype": "BYTES", "data": ["a", "ü"]}, ("BYTES", [2], ["a", "ü"])),
        ({"shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}, ("BYTES", [1], ['["a","b"]'])),
    ],
)
def test_a_custom_pipeline_receives_tensors_unchanged(http: TestClient, sent: Any, answered: Any) -> None:
    output = _outputs(_infer(http, "anything", {"name": "z", **sent}))["output-0"]
    assert (output["datatype"], output["shape"], output["data"]) == answered


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        ("x", {}, "inputs: Field required"),
        ("x", {"inputs": []}, "inputs: List should have at least 1 item after validation, not 0"),
        ("x", {"inputs": "a"}, "inputs: Input should be a valid list"),
        ("x", {"instances": ["a"]}, "inputs: Field required"),
        ("x", {"inputs": [_text("a")], "more": 1}, "more: Extra inputs are not permitted"),
        ("x", {"inputs": [_text("a")], "id": 1}, "id: Input should be a valid string"),
        ("x", {"inputs": [_text("a") | {"shape": []}]}, "inputs[0].shape: List should have at least 1 item"),
        ("x", {"inputs": [_text("a") | {"shape": ["1"]}]}, "inputs[0].shape[0]: Input should be a valid integer"),
        (
            "x",
            {"inputs": [_text("a") | {"shape": [-1]}]},
            "inputs[0].shape[0]: Input should be greater than or equal to 0",
        ),
        ("x", {"inputs": [_text("a") | {"shape": [2]}]}, "inputs[0].data: [2] has 2 elements, 1 given"),
        ("x", {"inputs": [_text("a") | {"datatype": "TEXT"}]}, "inputs[0].datatype: 'TEXT' is none of BF16, BOOL"),
        ("x", {"inputs": [_text("a") | {"data": None}]}, "inputs[0].data: field required"),
        ("x", {"inputs": [_text("a"), _text("b")]}, "inputs[1].name: there are two inputs named text"),
        ("x", {"inputs": [_text()]}, "inputs[0].shape: must hold at least one instance"),
        ("x", {"inputs": [_text("a", parameters={"shared_memory_region": "r"})]}, "inputs[0].parameters.shared_memory"),
        ("x", {"inputs": [_text("a", parameters={"content_type": "pd"})]}, "inputs[0].parameters.content_type: "),
        ("x", {"inputs": [_text("a", parameters={"content_type": "json"})]}, "inputs[0].data[0]: is not JSON"),
        ("x", {"inputs": [_text("a", parameters={"binary_data_size": 1})]}, "inputs[0].data: is not sent along with"),
        (
            "x",
            {"inputs": [_text("a")], "outputs": [{"name": "y"}]},
            "outputs[0].name: unknown output 'y', known are ou",
        ),
        (
            "x",
            {"inputs": [_text("a")], "outputs": [{"name": "output-0"}] * 2},
            "outputs[1].name: output-0 is asked for",
        ),
        (
            "x",
            {"inputs": [_text("a")], "parameters": {"stream": True}},
            "parameters.stream: tensors are answered whole",
        ),
        ("x", {"inputs": [_text("a")], "parameters": {"binary_data_output": 1}}, "parameters.binary_data_output: must"),
        (
            "x",
            {"inputs": [{"name": "text", "shape": [1], "datatype": "INT8", "data": [1]}]},
            "inputs[0].datatype: text is BYTES, INT8 given",
        ),
        (
            "x",
            {"inputs": [_text("a", "b") | {"shape": [1, 2]}]},
            "inputs[0].shape: text is [n] or [n, 1], [1, 2] given",
        ),
        *(
            (
                model,
                {"inputs": [_text(*texts, parameters={"content_type": "json"}) | {"shape": [1, len(texts)]}]},
                f"inputs[0].shape: a tensor of JSON documents is [n] or [n, 1], [1, {len(texts)}] given",
            )
            for model in ("x", "vectors", "anything")
            for texts in ([], ["1", "2"])
        ),
        (
            "questions",
            {"inputs": [_text("a", name="question")]},
            "inputs: an instance is made of question and context;",
        ),
        ("questions", {"inputs": [_text("a", name="contxt")]}, "inputs[0].name: unknown input 'contxt', did you mean"),
        (
            "questions",
            {"inputs": [_text("a", name="question"), _text("a", "b", name="context")]},
            "inputs: differ in their first dimension, the number of instances: question 1, context 2",
        ),
        (
            "vectors",
            {"inputs": [{"name": "input_ids", "shape": [1], "datatype": "INT64", "data": [1]}]},
            "inputs[0].shape: input_ids is [-1, -1], [1] given",
        ),
        (
            "vectors",
            {"inputs": [_text("a")], "parameters": {"pooling": "mean"}, "outputs": [{"name": "attention_mask"}]},
            "outputs: there is no attention_mask of one vector a text",
        ),
    ],
)
def test_a_mistake_is_a_400_that_names_the_field(http: TestClient, model: str, body: Any, said: str) -> None:
    response = http.post(f"/v2/models/{model}/infer", json=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith(said)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": [{"name": "\xff"}]}', b'"' + b"[" * 5000])
def test_a_body_that_is_no_json_object_is_a_400(http: TestClient, body: bytes) -> None:
    response = http.post("/v2/models/x/infer", content=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("Unrecognized request format")


def test_a_string_that_is_not_utf8_is_named(http: TestClient) -> None:
    head = json.dumps({"inputs": [_text("a") | {"data": None, "parameters": {"binary_data_size": 5}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    response = http.post("/v2/models/x/infer", content=head + b"\1\0\0\0\xff", headers=headers)
    assert (response.status_code, response.json()) == (400, {"error": "inputs[0].data[0]: is not UTF-8"})


def test_an_instance_that_fails_is_named(http: TestClient) -> None:
    response = _infer(http, "x", _text("a", "wrong"))
    assert (response.status_code, response.json()) == (400, {"error": "inputs[0].data[1]: must be right"})
    assert _infer(http, "x", _text("a", "parameter")).json() == {"error": "parameters.top_k: must be 1"}


def test_a_request_over_a_limit_is_refused_and_the_limit_named(http: TestClient) -> None:
    assert _infer(http, "x", _text(*"abcdef")).status_code == 413
    assert "MAX_INSTANCES" in _infer(http, "x", _text(*"abcdef")).json()["error"]
    assert "MAX_BODY_SIZE" in _infer(http, "x", _text("a" * 10_000)).json()["error"]
    full = _infer(http, "x", _text("full"))
    assert (full.status_code, full.headers["retry-after"]) == (429, "3")
    assert _infer(http, "x", _text("never")).status_code == 504


def _generate(http: TestClient, **body: Any) -> Any:
    return http.post("/v2/models/writer/generate", json=body)


def test_generate_answers_the_new_text(http: TestClient, clients: dict[str, ScriptedClient]) -> None:
    answer = _generate(http, id="7", text_input="ab", parameters={"max_tokens": 3, "temperature": 0.5}).json()
    assert answer == {"model_name": "writer", "id": "7", "text_output": "AB"}
    writer = clients["writer"]
    assert isinstance(writer, _Model)
    asked = {"return_full_text": False, "temperature": 0.5, "max_new_tokens": 3, "do_sample": True}
    assert writer.given == [("ab", asked)]


@pytest.mark.parametrize(("verb", "said"), [("generate", False), ("generate_stream", True), ("generate_stream", False)])
def test_generate_accepts_the_fields_that_repeat_its_mode(http: TestClient, verb: str, said: bool) -> None:
    body = {"text_input": "ab", "parameters": {"stream": said, "temperature": 0}}
    assert http.post(f"/v2/models/writer/{verb}", json=body).status_code == 200


def test_generate_refuses_to_stream(http: TestClient) -> None:
    answer = _generate(http, text_input="ab", parameters={"stream": True})
    assert (answer.status_code, answer.json()["error"].split(":")[0]) == (400, "parameters.stream")


@pytest.mark.parametrize(("stop", "reason"), [([], "eos_token"), (["!"], "stop_sequence")])
def test_generate_returns_details_on_request(http: TestClient, stop: list[str], reason: str) -> None:
    answer = _generate(http, text_input="ab", parameters={"details": True, "stop": stop}).json()
    assert answer["details"] == {
        "finish_reason": reason,
        "prompt_tokens": 1,
        "cached_tokens": 0,
        "generated_tokens": 1,
        "logprobs": [{"id": 5, "text": "!", "logprob": -0.5, "special": False}],
    }


def test_a_generated_stream_ends_with_the_reason(http: TestClient) -> None:
    response = http.post("/v2/models/writer/generate_stream", json={"id": "7", "text_input": "ab"})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event]
    head = {"model_name": "writer", "id": "7"}
    assert events[0] == {**head, "text_output": "AB"}
    assert events[-1]["details"]["finish_reason"] == "eos_token"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "text_input: Field required"),
        ({"text_input": ["a"]}, "text_input: Input should be a valid string"),
        ({"text_input": "a", "max_tokens": 3}, "max_tokens: Extra inputs are not permitted"),
        ({"text_input": "a", "parameters": []}, "parameters: Input should be a valid dictionary"),
        (
            {"text_input": "a", "parameters": {"max_tokens": 1, "max_new_tokens": 1}},
            "parameters.max_tokens: is the same",
        ),
        ({"text_input": "a", "parameters": {"num_return_sequences": 2}}, "parameters.num_return_sequences: one text"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_a_mistake_in_generate_is_a_400_that_names_the_field(http: TestClient, verb: str, body: Any, said: str) -> None:
    response = http.post(f"/v2/models/writer/{verb}", json=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith(said)


def test_generate_needs_a_generative_model(http: TestClient) -> None:
    response = http.post("/v2/models/x/generate", json={"text_input": "a"})
    assert response.status_code == 400
    assert response.json()["error"].startswith(
        "x does fill-mask: generate needs a model that does text2text-generation"
    )
