"""Promise: the curl requests of KServe's documentation are answered unchanged.

Sources: https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/huggingface/overview and
https://kserve.github.io/website/docs/model-serving/generative-inference/overview
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.e2e.server import Server

pytestmark = [
    pytest.mark.xdist_group("seven"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

#: Per page: the task of its model here, and its inputs.
_PAGES = [
    ("text-classification", ["Hello, my dog is cute", "I am feeling sad"]),
    ("token-classification", ["My name is Wolfgang and I live in Berlin", "My name is Lisa and I live in Paris"]),
    ("fill-mask", ["The capital of France is [MASK].", "The capital of [MASK] is paris."]),
]


def _curl(url: str, body: Any, *arguments: str) -> str:
    """Run `curl -v`, which prints its actions as well, with the headers of the pages."""
    headers = ("-H", "content-type: application/json", "-H", "Host: huggingface.default.example.com")
    command = ["curl", "-v", "--fail-with-body", url, *headers, *arguments, "-d", json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("task", "texts"), _PAGES)
def test_v1(seven_server: Server, task: str, texts: list[str]) -> None:
    answer = json.loads(_curl(f"{seven_server.url}/v1/models/{task}:predict", {"instances": texts}))
    assert [len(answer), len(answer["predictions"])] == [1, 2]


@pytest.mark.parametrize(("task", "texts"), _PAGES)
def test_v2(seven_server: Server, task: str, texts: list[str]) -> None:
    body = {"inputs": [{"name": "input-0", "shape": [2], "datatype": "BYTES", "data": texts}]}
    answer = json.loads(_curl(f"{seven_server.url}/v2/models/{task}/infer", body))
    assert answer["model_name"] == task
    assert answer["outputs"][0]["name"] == "output-0"
    assert answer["outputs"][0]["shape"] == [2]


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("text-generation", "Write a poem about colors"),
        ("text2text-generation", "translate English to German: The house is wonderful."),
    ],
)
def test_completions_whole_and_streamed(seven_server: Server, model: str, prompt: str) -> None:
    url = f"{seven_server.url}/openai/v1/completions"
    body = {"model": model, "prompt": prompt, "stream": False, "max_tokens": 30}
    answer = json.loads(_curl(url, body))
    assert answer["object"] == "text_completion"
    assert answer["usage"]["completion_tokens"] <= 30
    assert _curl(url, {**body, "stream": True}).endswith("data: [DONE]\n\n")
