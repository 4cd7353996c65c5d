"""Promise: Triton's own client reaches every task by V2 and gets the answers of V1.

Tensors are sent as JSON and as binary data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.e2e.checkpoints import CHECKPOINTS
from tests.e2e.server import Server, serving
from tests.project import ROOT
from tests.tiny import CORPUS

pytestmark = pytest.mark.xdist_group("seven")

_QUESTION, _CONTEXT = "Who founded Apple?", "Apple was founded by Steve Jobs."

#: Two instances as a V1 client sends them, and as tensors.
_REQUESTS: dict[str, tuple[list[Any], dict[str, list[str]]]] = {
    **{task: (CORPUS[:2], {"text": CORPUS[:2]}) for task in CHECKPOINTS},
    "question-answering": (
        [{"question": _QUESTION, "context": _CONTEXT}] * 2,
        {"question": [_QUESTION] * 2, "context": [_CONTEXT] * 2},
    ),
    "fill-mask": (["the [MASK] fox", "a [MASK]"], {"text": ["the [MASK] fox", "a [MASK]"]}),
}


@pytest.fixture(scope="module")
def client(seven_server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(seven_server.url.removeprefix("http://"), network_timeout=60) as client:
        yield client


def _strings(texts: list[str]) -> Any:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _tensor(name: str, array: Any, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def _v1(server: Server, task: str, instances: list[Any], **parameters: Any) -> Any:
    body = {"instances": instances, "parameters": parameters}
    answer = requests.post(f"{server.url}/v1/models/{task}:predict", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def test_the_server_and_every_model_are_alive_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert all(client.is_model_ready(task) for task in CHECKPOINTS)
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "hugging-face-runtime"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("task", CHECKPOINTS)
def test_every_task_answers_tensors_as_its_metadata_says_with_the_answers_of_v1(
    client: triton.InferenceServerClient, seven_server: Server, task: str, binary: bool
) -> None:
    instances, columns = _REQUESTS[task]
    expected = _v1(seven_server, task, instances)
    metadata = client.get_model_metadata(task)
    required = {tensor["name"] for tensor in metadata["inputs"] if "parameters" not in tensor} or {"text"}
    assert required == set(columns)

    outputs = [triton.InferRequestedOutput(output["name"], binary_data=binary) for output in metadata["outputs"]]
    inputs = [_tensor(name, _strings(texts), binary=binary) for name, texts in columns.items()]
    result = client.infer(task, inputs, outputs=outputs, request_id="abc")
    assert result.get_response()["id"] == "abc"
    for output in metadata["outputs"]:
        array = result.as_numpy(output["name"])
        assert result.get_output(output["name"])["datatype"] == output["datatype"]
        sizes = zip(output["shape"], array.shape, strict=True)
        assert all(size in (-1, given) for size, given in sizes), (output, array.shape)
        assert len(array) == 2

    answer = result.as_numpy("output-0")
    if task == "feature-extraction":
        np.testing.assert_allclose(answer, np.array(expected, np.float32), atol=1e-6)
    else:
        assert [json.loads(document) for document in answer] == expected


def _described(tensor: dict[str, Any]) -> str:
    shape = ", ".join("size" if size == 32 else str(size) for size in tensor["shape"])
    return f"`{tensor['name']}` {tensor['datatype']} [{shape}]" + " (optional)" * ("parameters" in tensor)


@pytest.mark.parametrize("task", CHECKPOINTS)
def test_the_page_states_the_tensors_of_the_metadata(client: triton.InferenceServerClient, task: str) -> None:
    metadata = client.get_model_metadata(task)
    inputs, outputs = (", ".join(map(_described, metadata[kind])) for kind in ("inputs", "outputs"))
    page = ROOT / "docs" / "protocols" / "open-inference-v2.md"
    assert f"\n| {task} | {inputs} | {outputs} |\n" in page.read_text(encoding="utf-8")


def test_labels_and_scores_are_tensors(client: triton.InferenceServerClient, seven_server: Server) -> None:
    expected = _v1(seven_server, "text-classification", CORPUS, top_k=2)
    result = client.infer("text-classification", [_tensor("text", _strings(CORPUS))], parameters={"top_k": 2})
    labels, scores = result.as_numpy("label"), result.as_numpy("score")
    assert labels.shape == scores.shape == (len(CORPUS), 2)
    assert [[label.decode() for label in row] for row in labels] == [[e["label"] for e in row] for row in expected]
    np.testing.assert_allclose(scores, [[e["score"] for e in row] for row in expected], atol=1e-6)


def test_vectors_of_tokens_are_padded_to_the_longest_input(
    client: triton.InferenceServerClient, seven_server: Server
) -> None:
    expected = _v1(seven_server, "feature-extraction", CORPUS, pooling="none", normalize=False)
    parameters = {"pooling": "none", "normalize": False}
    result = client.infer("feature-extraction", [_tensor("text", _strings(CORPUS))], parameters=parameters)
    vectors = result.as_numpy("output-0")
    lengths = [len(tokens[0]) for tokens in expected]
    assert vectors.shape == (len(CORPUS), max(lengths), 32)
    for vector, tokens, length in zip(vectors, expected, lengths, strict=True):
        np.testing.assert_allclose(vector[:length], tokens[0], atol=1e-6)
        assert not vector[length:].any()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_client_may_compress_its_requests(client: triton.InferenceServerClient, algorithm: str) -> None:
    plain, compressed = (
        client.infer("fill-mask", [_tensor("text", _strings(["a [MASK]"]))], request_compression_algorithm=how)
        for how in (None, algorithm)
    )
    assert compressed.as_numpy("output-0").tolist() == plain.as_numpy("output-0").tolist()


def test_a_refusal_reaches_the_client(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"unknown input 'contxt', did you mean 'context'") as refused:
        client.infer("question-answering", [_tensor("contxt", _strings(["a"]))])
    assert refused.value.status() == "400"


def test_generate_returns_the_text_of_v1_whole_and_streamed(seven_server: Server) -> None:
    url = f"{seven_server.url}/v2/models/text-generation"
    expected = _v1(seven_server, "text-generation", ["The"], max_new_tokens=8, return_full_text=False)
    body = {"text_input": "The", "parameters": {"max_tokens": 8, "details": True}}
    answer = requests.post(f"{url}/generate", json=body, timeout=60).json()
    assert answer["text_output"] == expected[0][0]["generated_text"]
    assert answer["details"]["finish_reason"] in ("length", "eos_token")
    assert len(answer["details"]["logprobs"]) == answer["details"]["generated_tokens"]

    response = requests.post(f"{url}/generate_stream", json=body, timeout=60)
    events = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event]
    assert "".join(event["text_output"] for event in events) == answer["text_output"]
    assert [token for event in events for token in event["details"]["logprobs"]] == answer["details"]["logprobs"]
    assert events[-1]["details"]["finish_reason"] == answer["details"]["finish_reason"]


_IDENTITY = """
def create_pipeline(model_path=None, **kwargs):
    return lambda instance: instance
"""


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("identity")
    (folder / "custom_pipeline.py").write_text(_IDENTITY)
    limits = {"MAX_BODY_SIZE": str(2**28), "MAX_BATCH_SIZE": "1"}
    with serving(
        STORAGE_URI=str(folder), MODEL_NAME="identity", TRUST_REMOTE_CODE="true", environment=limits
    ) as server:
        yield server


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"], ids=lambda d: str(np.dtype(d))
)
def test_tensors_of_every_datatype_pass_through_a_model_unchanged(identity: Server, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    with triton.InferenceServerClient(identity.url.removeprefix("http://")) as client:
        back = client.infer("identity", [_tensor("any", array)]).as_numpy("output-0")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_strings_of_all_scripts_pass_through_a_model_unchanged(identity: Server) -> None:
    texts = ["", "a", "ümlaut", "日本語", "🙂\u200d", "a\x00b", "\u2028"]
    with triton.InferenceServerClient(identity.url.removeprefix("http://")) as client:
        for binary in (True, False):
            output = triton.InferRequestedOutput("output-0", binary_data=binary)
            tensor = _tensor("any", _strings(texts), binary=binary)
            back = client.infer("identity", [tensor], outputs=[output]).as_numpy("output-0")
            assert [text if isinstance(text, str) else text.decode() for text in back] == texts


def test_100_mb_pass_through_a_model_unchanged(identity: Server) -> None:
    array = np.random.default_rng(0).random((25, 1024, 1024), np.float32)
    with triton.InferenceServerClient(identity.url.removeprefix("http://"), network_timeout=120) as client:
        back = client.infer("identity", [_tensor("any", array)]).as_numpy("output-0")
    np.testing.assert_array_equal(back, array)


def test_one_instance_over_the_limit_of_the_wire_is_a_413(identity: Server) -> None:
    with triton.InferenceServerClient(identity.url.removeprefix("http://"), network_timeout=120) as client:
        with pytest.raises(InferenceServerException, match=r"inputs\[0\].data\[0\]: has \d+ bytes") as refused:
            client.infer("identity", [_tensor("any", np.zeros((1, 2**24), np.uint8))])
        assert refused.value.status() == "413"
