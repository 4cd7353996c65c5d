"""Promise: logs are JSON on request, name requests by id, and hide inputs by default."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from hf_runtime.observability.one_line import one_line
from tests.e2e import checkpoints
from tests.e2e.server import Server, serving
from tests.tiny import llama_model

pytestmark = pytest.mark.xdist_group("logs")

#: A string that no log may hold, and the answer to it; only errors of third-party code quote it.
PROMPT = "quagga4711"
ANSWER = PROMPT[::-1]
PIPELINE = """
import os
import warnings

def create_pipeline():
    def answer(text):
        if text.startswith("fail"):
            raise LookupError(f"no entry for {text}")
        if text.startswith("refuse"):
            raise ValueError(f"cannot take {text}")
        if text.startswith("crash"):
            os._exit(3)
        return {"reversed": text[::-1]}
    return answer
"""

#: Paths, bodies and headers of requests for all protocols; prompts are in the fields that only a model should read.
CHAT = [{"role": "user", "content": f"Tell me of {PROMPT}"}]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/models/pipeline:predict", {"instances": [PROMPT, PROMPT]}),
    ("/v1/models/generation:predict", {"instances": [PROMPT], "parameters": {"max_new_tokens": 12}}),
    ("/v1/models/generation:predict", {"instances": [PROMPT], "parameters": {"max_new_tokens": 12, "stream": True}}),
    ("/v1/models/generation:predict", {"instances": [CHAT], "parameters": {"max_new_tokens": 12, "stop": PROMPT}}),
    ("/v1/models/embedding:predict", {"instances": [PROMPT]}),
    ("/openai/v1/completions", {"model": "generation", "prompt": PROMPT, "max_tokens": 12}),
    ("/openai/v1/completions", {"model": "generation", "prompt": PROMPT, "max_tokens": 12, "stream": True}),
    ("/openai/v1/chat/completions", {"model": "generation", "messages": CHAT, "max_tokens": 12}),
    ("/openai/v1/chat/completions", {"model": "generation", "messages": CHAT, "max_tokens": 12, "stream": True}),
    ("/openai/v1/embeddings", {"model": "embedding", "input": PROMPT}),
]
MISTAKES: list[tuple[int, str, dict[str, Any]]] = [
    (500, "/v1/models/pipeline:predict", {"instances": [f"fail {PROMPT}"]}),
    (500, "/v1/models/pipeline:predict", {"instances": [f"fail {PROMPT}", f"fail more {PROMPT}", "fine"]}),
    (400, "/v1/models/pipeline:predict", {"instances": [f"refuse {PROMPT}"]}),
    (400, "/v1/models/generation:predict", {"instances": [PROMPT], "parameters": {PROMPT: PROMPT}}),
    (400, "/v1/models/generation:predict", {"instances": [PROMPT], "parameters": {"seed": PROMPT}}),
    (400, "/v1/models/generation:predict", {"instances": [PROMPT * 5000]}),
    (400, "/v1/models/generation:predict", {"instances": [{PROMPT: PROMPT}], "parameters": {"stream": True}}),
    (400, "/v1/models/generation:predict", {PROMPT: PROMPT}),
    (400, "/openai/v1/completions", {"model": "generation", "prompt": {"a": PROMPT}, PROMPT: 1}),
    (400, "/openai/v1/chat/completions", {"model": "generation", "messages": [{"role": PROMPT, "content": PROMPT}]}),
    (404, "/openai/v1/completions", {"model": PROMPT, "prompt": PROMPT}),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logged")
    llama_model(folder / "generation", context=4096)
    checkpoints.feature_extraction(folder / "embedding")
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "custom_pipeline.py").write_text(PIPELINE)
    documents = [
        checkpoints.inference_service("generation", folder / "generation", {"TASK": "text-generation"}),
        checkpoints.inference_service("embedding", folder / "embedding", {"TASK": "feature-extraction"}),
        checkpoints.inference_service(
            "pipeline", folder / "pipeline", {"TASK": "reversal", "TRUST_REMOTE_CODE": "true"}
        ),
    ]
    (folder / "models.yaml").write_text(yaml.safe_dump_all(documents))
    return folder / "models.yaml"


@pytest.fixture(scope="module")
def silent(config: Path) -> Iterator[Server]:
    variables = {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json", "ACCESS_LOG": "true"}
    with serving(variables, models=3, RUNTIME_CONFIG=str(config)) as server:
        yield server


def _post(server: Server, path: str, body: dict[str, Any], request_id: str = "") -> requests.Response:
    return requests.post(server.url + path, json=body, headers={"X-Request-Id": request_id}, timeout=60)


def _lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log if line != "<end of log>"]


def _crash(server: Server) -> None:
    """Let a runner crash on a request, and wait for the next runner."""
    body = {"instances": [f"crash {PROMPT}"]}
    assert _post(server, "/v1/models/pipeline:predict", body, "crashed").status_code == 503
    server.wait_for("Model pipeline is ready", times=2)


def _answer_strings(answer: requests.Response) -> list[str]:
    """Return the strings in an answer, as JSON encodes them."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, part in value.items():
                if name in ("generated_text", "text", "content") and isinstance(part, str):
                    yield json.dumps(part, ensure_ascii=False)[1:-1]
                yield from texts(part)
        elif isinstance(value, list):
            for part in value:
                yield from texts(part)

    return [text for text in texts(answer.json()) if len(text) > 5]


def _logged_once(server: Server, pattern: str) -> None:
    server.wait_for(pattern)  # the log line may arrive after the answer
    assert server.count(pattern) == 1


def test_payloads_are_logged_if_enabled(config: Path) -> None:
    with serving(LOG_PAYLOADS="true", models=3, RUNTIME_CONFIG=str(config)) as server:
        for number, (path, body) in enumerate(REQUESTS):
            answer = _post(server, path, body, f"served-{number}")
            _logged_once(server, f"items: .*{PROMPT}.*request=served-{number}")
            if answer.headers["content-type"] == "application/json" and "embed" not in path:
                for text in _answer_strings(answer):
                    server.wait_for(re.escape(one_line(text)))
            else:
                server.wait_for(f"answers: .*request=served-{number}")
        _logged_once(server, f"answers: .*{ANSWER}.*request=served-0")
        _post(server, *MISTAKES[0][1:])
        server.wait_for(f"LookupError: no entry for fail {PROMPT}")


def test_each_batch_names_its_requests(silent: Server) -> None:
    _post(silent, "/v1/models/embedding:predict", {"instances": ["a", "b"]}, "batched")
    silent.wait_for("batch of 2 rows.*batched")
    _post(silent, "/v1/models/generation:predict", {"instances": ["a"], "parameters": {"max_new_tokens": 3}}, "written")
    silent.wait_for("a sequence leaves.*written")
    steps = [line["message"] for line in _lines(silent) if line.get("request_id") == "written"]
    assert sum("joins" in step for step in steps) == 1
    assert sum("leaves: 3 new tokens, length" in step for step in steps) == 1


def test_a_client_that_leaves_is_logged_as_499(silent: Server) -> None:
    body = {"instances": ["a"], "parameters": {"max_new_tokens": 4000, "ignore_eos": True}}
    client = HTTPConnection("127.0.0.1", silent.port, timeout=60)
    client.request("POST", "/v1/models/generation:predict", json.dumps(body), {"X-Request-Id": "left"})
    silent.wait_for("a sequence joins.*left")
    client.close()
    silent.wait_for('"status":499.*"left"')


def test_health_is_not_logged(silent: Server) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert requests.get(silent.url + path, timeout=60).status_code == 200
    _post(silent, "/v1/models/embedding:predict", {"instances": ["a"]}, "after-health")
    silent.wait_for("access_log.*after-health")
    assert silent.count("livez|readyz|/metrics") == 0


def test_every_line_is_json_and_none_quotes_a_client(silent: Server) -> None:
    # The last test of the module: it includes the lines that the server logs when it stops.
    answers = []
    for number, (path, body) in enumerate(REQUESTS):
        answer = _post(silent, path, body, f"served-{number}")
        assert answer.status_code == 200, answer.text
        if answer.headers["content-type"] == "application/json" and "embed" not in path:
            answers += _answer_strings(answer)
    for number, (status, path, body) in enumerate(MISTAKES):
        answer = _post(silent, path, body, f"mistake-{number}")
        assert answer.status_code == status, answer.text
    _crash(silent)
    silent.terminate()
    silent.wait_ended()
    lines = _lines(silent)
    told = "\n".join(silent.log)
    assert answers
    for text in (PROMPT, ANSWER, *answers):
        assert text not in told
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    failed = [line for line in lines if line.get("request_id") == "mistake-0"]
    assert {line["process"].split("-")[0] for line in failed} == {"runner", "HuggingFaceRuntime:1"}
    (error,) = [line for line in failed if line["message"] == "computing an item failed"]
    assert error["level"] == "ERROR"
    assert error["model"] == "pipeline"
    assert "raise LookupError" in error["exception"]  # the place and kind of the error, but not its message
    access = {line["request_id"]: line for line in lines if line["logger"] == "hf_runtime.observability.access_log"}
    assert access["mistake-0"].items() >= {
        "method": "POST", "path": "/v1/models/pipeline:predict", "status": 500, "model": "pipeline", "instances": 1,
        "error": "inference_failed", "client": "127.0.0.1",
    }.items()  # fmt: skip
    assert 0 < access["served-0"]["duration"] < 60
    served = {f"served-{number}" for number in range(len(REQUESTS))}
    assert access.keys() >= {*served, *(f"mistake-{number}" for number in range(len(MISTAKES))), "crashed"}
