"""Promise: the OpenAPI document is true and agrees with V2's published specification."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import requests
import yaml

from tests.e2e.checkpoints import CHECKPOINTS
from tests.e2e.server import Server

pytestmark = pytest.mark.xdist_group("seven")

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_SPECIFICATIONS = Path(__file__).parents[1] / "specifications"

#: Number of generated requests for each route, in addition to those for the edges of each schema.
_EXAMPLES = 6


@pytest.fixture(scope="module")
def document(seven_server: Server) -> Any:
    return requests.get(f"{seven_server.url}/openapi.json", timeout=60).json()


def test_every_answer_is_described_by_the_document(seven_server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG)]
    options = ["--generation-deterministic", "--max-examples", str(_EXAMPLES), "--continue-on-failure", "--no-color"]
    run = subprocess.run(
        [*command, "run", f"{seven_server.url}/openapi.json", *options],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def _examples(document: Any, media_type: str) -> list[Any]:
    """Yield the path with a model's name, and the body, of every example."""
    found = []
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {}).get(media_type, {})
        for task, each in content.get("examples", {}).items():
            found.append((path.replace("{name}", task), each["value"]))
        if "example" in content:
            found.append((path.replace("{name}", "text-generation"), content["example"]))
    return found


@pytest.mark.parametrize(
    ("media_type", "count"), [("application/json", 2 * len(CHECKPOINTS) + 20), ("application/cloudevents+json", 7)]
)
def test_every_example_is_answered_unchanged(seven_server: Server, document: Any, media_type: str, count: int) -> None:
    examples = [each for each in _examples(document, media_type) if not each[0].endswith("load")]  # not enabled here
    assert len(examples) == count
    for path, body in examples:
        headers = {"Content-Type": media_type, "Accept": "*/*"}
        answer = requests.post(seven_server.url + path, json=body, headers=headers, timeout=60)
        # The server refuses requests that would unload a model which other tests need.
        managed = "/repository/models/" in path
        assert answer.status_code == (403 if managed else 200), (path, body, answer.text)
        assert answer.headers["content-type"].split(";")[0] in (media_type, "text/event-stream")


def test_the_page_and_its_files_are_served(seven_server: Server) -> None:
    page = requests.get(f"{seven_server.url}/", headers={"Accept": "text/html"}, timeout=60)
    assert page.url == f"{seven_server.url}/docs"
    files = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(files) >= 2
    for file in files:
        assert requests.get(f"{seven_server.url}/{file}", timeout=60).status_code == 200


def test_a_line_break_in_a_path_reaches_the_protocols(seven_server: Server) -> None:
    answer = requests.get(f"{seven_server.url}/v2/models/a%0Ab", timeout=60)
    assert answer.json() == {"error": "Model with name a\nb does not exist."}


def _check(document: Any, schema: Any, value: Any) -> None:
    jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def _media(document: Any, path: str, media_type: str) -> Any:
    return document["paths"][path]["post"]["responses"]["200"]["content"][media_type]


def test_stream_lines_match_their_schema(seven_server: Server, document: Any) -> None:
    line = _media(document, "/v1/models/{name}:predict", "application/x-ndjson")["x-itemSchema"]
    parameters = {"stream": True, "max_new_tokens": 4, "logprobs": 2}
    for task in ("text-generation", "text2text-generation"):
        body = {"instances": ["The", "A"], "parameters": parameters}
        answer = requests.post(f"{seven_server.url}/v1/models/{task}:predict", json=body, timeout=60)
        deltas = [json.loads(text) for text in answer.text.splitlines()]
        assert sum("finish_reason" in delta for delta in deltas) == 2
        for delta in deltas:
            _check(document, line, delta)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/{name}:predict", {"instances": ["The"], "parameters": {"stream": True, "logprobs": 1}}),
        ("/v2/models/{name}/generate_stream", {"text_input": "The", "parameters": {"details": True}}),
        ("/openai/v1/completions", {"prompt": "The", "stream": True, "logprobs": 2}),
        ("/openai/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "stream": True}),
    ],
)
def test_events_match_their_schema(seven_server: Server, document: Any, path: str, body: Any) -> None:
    data = _media(document, path, "text/event-stream")["schema"]["properties"]["data"]
    schema = data["anyOf"][1] if "anyOf" in data else data
    if path.startswith("/openai"):
        body = {**body, "model": "text-generation", "max_tokens": 4, "stream_options": {"include_usage": True}}
    url = seven_server.url + path.replace("{name}", "text-generation")
    answer = requests.post(url, json=body, headers={"Accept": "text/event-stream"}, timeout=60)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
    assert len(events) > 1
    for event in events:
        if event != "[DONE]":
            _check(document, schema["contentSchema"], json.loads(event))


def _published(file: str, name: str, value: Any) -> None:
    """Check a value against a component of a specification."""
    specification = yaml.safe_load((_SPECIFICATIONS / file).read_text(encoding="utf-8"))
    reference = {"$ref": f"#/components/schemas/{name}", "components": specification["components"]}
    jsonschema_rs.Draft202012Validator(reference).validate(value)


_REST = "open_inference_rest.yaml"


def test_metadata_has_the_published_shape(seven_server: Server) -> None:
    _published(_REST, "metadata_server_response", requests.get(f"{seven_server.url}/v2/", timeout=60).json())
    for task in CHECKPOINTS:
        metadata = requests.get(f"{seven_server.url}/v2/models/{task}", timeout=60).json()
        _published(_REST, "metadata_model_response", metadata)
    missing = requests.get(f"{seven_server.url}/v2/models/nope", timeout=60)
    assert missing.status_code == 404
    _published(_REST, "metadata_model_error_response", missing.json())


def test_requests_and_answers_of_infer_have_the_published_shapes(seven_server: Server, document: Any) -> None:
    examples = [each for each in _examples(document, "application/json") if each[0].endswith("/infer")]
    assert len(examples) == len(CHECKPOINTS)
    for path, body in examples:
        _published(_REST, "inference_request", body)
        answer = requests.post(seven_server.url + path, json={**body, "id": "1"}, timeout=60).json()
        _published(_REST, "inference_response", answer)
        assert (answer["model_name"], answer["id"]) == (path.split("/")[3], "1")
    wrong = requests.post(seven_server.url + examples[0][0], json={"inputs": []}, timeout=60)
    assert wrong.status_code == 400
    _published(_REST, "inference_error_response", wrong.json())


def test_generated_text_has_the_published_shape(seven_server: Server) -> None:
    body = {"text_input": "The", "parameters": {"max_tokens": 4, "details": True}}
    _published("generate_rest.yaml", "GenerateRequest", body)
    answer = requests.post(f"{seven_server.url}/v2/models/text-generation/generate", json=body, timeout=60)
    _published("generate_rest.yaml", "GenerateResponse", answer.json())
