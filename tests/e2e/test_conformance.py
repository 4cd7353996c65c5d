"""Promise: docs/kserve-comparison.md states the real answers of KServe's server and ours.

`make conformance` writes its table again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml

from tests.e2e.checkpoints import fill_mask, inference_service, text_classification
from tests.e2e.conformance import CASES, Case
from tests.e2e.server import Server, serving
from tests.project import ROOT

pytestmark = pytest.mark.xdist_group("conformance")

_PAGE = ROOT / "docs" / "kserve-comparison.md"
_BEGIN, _END = "<!-- conformance -->\n\n", "\n<!-- /conformance -->"
_HEAD = "| Request | KServe | Here |\n|---|---|---|\n"
_LONGEST = 90


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("conformance")
    broken = fill_mask(folder / "broken") / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    documents = [
        inference_service("x", text_classification(folder / "x"), {"TASK": "text-classification"}),
        inference_service("broken", folder / "broken", {"TASK": "fill-mask"}),
    ]
    config = folder / "models.yaml"
    config.write_text(yaml.safe_dump_all(documents))
    with serving(RUNTIME_CONFIG=str(config), MODEL_MANAGEMENT="true") as server:
        server.wait_for("broken is not served")
        yield server


def _send(server: Server, case: Case) -> requests.Response:
    data = case.sent if isinstance(case.sent, str) else None
    body = None if data is not None else case.sent
    return requests.request(case.method, server.url + case.path, json=body, data=data, headers=case.headers, timeout=60)


def _shown(response: requests.Response) -> str:
    """Format status and body for the table, without the parts that differ from run to run."""
    length = response.headers.get("Inference-Header-Content-Length")
    text = response.text if length is None else response.content[: int(length)].decode()
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", text)
    text = re.sub(r"(/[\w.-]+)+/broken", "…/broken", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[^\"]*", "…", text)
    text = re.sub(r'"created":\d+', '"created":…', text)
    text = re.sub(r"(\d\.\d)\d{2,}", r"\1…", text).replace("|", "\\|")
    return f"{response.status_code} `{text if len(text) <= _LONGEST else text[:_LONGEST] + '…'}`"


def _holds(answer: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(_holds(answer.get(key), value) for key, value in expected.items())
    return bool(answer == expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.request[:80])
def test_every_request_is_answered_as_expected(server: Server, case: Case) -> None:
    response = _send(server, case)
    assert response.status_code == case.status, response.text
    assert case.body is None or _holds(response.json(), case.body), response.text
    assert dict(case.answered).items() <= dict(response.headers).items()
    if case.status >= 400:
        assert isinstance(response.json()["error"], str)
        # The paths that OpenAI's clients use too have the fields of their errors next to it.
        assert list(response.json())[1:] in ([], ["message", "type", "param", "code"])


def test_the_page_has_the_table_that_this_run_produces(server: Server, pytestconfig: pytest.Config) -> None:
    rows = [f"| {case.request} | {case.kserve} | {_shown(_send(server, case))} |\n" for case in CASES]
    table = _HEAD + "".join(rows)
    before, rest = _PAGE.read_text(encoding="utf-8").split(_BEGIN)
    shown, after = rest.split(_END)
    if pytestconfig.getoption("--write-conformance"):
        _PAGE.write_text(before + _BEGIN + table + _END + after, encoding="utf-8")
    else:
        assert shown == table, "docs/kserve-comparison.md is stale: run `make conformance`"
