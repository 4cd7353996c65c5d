"""Promise: no request can reach a file or folder of the host."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.checkpoints import CHECKPOINTS
from tests.e2e.server import Server

pytestmark = pytest.mark.xdist_group("seven")

SECRET = "what only the host may read"

#: Parameters by which transformers, pipelines and other servers open files.
NAMES = (
    "model", "tokenizer", "config", "file", "path", "cache_dir", "chat_template", "custom_generate", "adapter_name",
    "assistant_model", "prompt_lookup", "generation_config", "logits_processor", "feature_extractor", "revision",
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("host") / "secret.json"
    file.write_text(SECRET)
    return file


def _instance(task: str, text: str) -> Any:
    match task:
        case "question-answering":
            return {"question": text, "context": text}
        case "fill-mask":
            return f"{text} [MASK]"
        case _:
            return text


@pytest.mark.parametrize("task", list(CHECKPOINTS))
def test_instances_and_parameters_open_no_files(seven_server: Server, file: Path, task: str) -> None:
    url = f"{seven_server.url}/v1/models/{task}:predict"
    for place in (str(file), f"file://{file}", f"@{file}", str(file.parent)):
        answers = [requests.post(url, json={"instances": [_instance(task, place[-40:])]}, timeout=60)]
        for name in NAMES:
            body = {"instances": [_instance(task, "text")], "parameters": {name: place}}
            answers.append(requests.post(url, json=body, timeout=60))
            assert answers[-1].status_code == 400, f"{name}: {answers[-1].text}"
        assert not [answer.text for answer in answers if SECRET in answer.text]


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../../../..{file}", "/docs/../../../../..{file}", "/static_content/../../../../../..{file}",
        "/static_content/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{file}", "//{file}", "/v1/models/..%2f..%2f..{file}",
        "/openai/v1/models{file}", "/v2/models/..%2f..{file}",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_routes(seven_server: Server, file: Path, path: str) -> None:
    # Sent unchanged: every client library would normalize the path first.
    with socket.create_connection(("127.0.0.1", seven_server.port), timeout=60) as connection:
        target = path.replace("{file}", str(file))
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert SECRET.encode() not in answer
    assert int(answer.split()[1]) in (307, 400, 404)
