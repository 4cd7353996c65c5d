"""Requests of many kinds, and the counts that their client expects in the metrics."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.server import Server
from tests.project import ROOT
from tests.tiny import CORPUS

#: Path, body, and the code of the expected error.
_Request = tuple[str, Any, str | None]

_PREDICT, _INFER = "/v1/models/{}:predict", "/v2/models/{}/infer"


class Load:
    """Client that sends requests from several threads.

    Attributes:
        requests: by protocol and status.
        errors: by protocol and kind.
        instances: of requests that reached a model, by protocol.
        tokens: of prompts and of answers, as the answers' usage reports.
    """

    def __init__(self, classifier: str, writer: str) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.instances: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._classifier, self._writer = classifier, writer

    def run(self, server: Server) -> None:
        """Send all requests and count them."""
        kinds = list(self._kinds())
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda kind: requests.post(server.url + kind[0], json=kind[1], timeout=60), kinds))
        for (path, body, error), answer in zip(kinds, answers, strict=True):
            protocol = path.split("/")[1]
            if answer.status_code == 503 and error is None:
                error = "model_not_ready"  # the worker may not know yet that the model is ready
            assert answer.ok == (error is None), answer.text
            self.requests[protocol, str(answer.status_code)] += 1
            if error is not None:
                self.errors[protocol, error] += 1
            elif protocol == "v1":
                self.instances[protocol] += len(body["instances"])
            elif protocol == "v2":
                self.instances[protocol] += body["inputs"][0]["shape"][0]
            else:
                self.instances[protocol] += body["n"]
                usage = answer.json()["usage"]
                self.tokens.update(read=body["n"] * usage["prompt_tokens"], written=usage["completion_tokens"])

    def _kinds(self) -> Iterator[_Request]:
        for number in range(30):
            texts = CORPUS[: 1 + number % 3]
            tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
            yield _PREDICT.format(self._classifier), {"instances": texts}, None
            yield _INFER.format(self._classifier), {"inputs": [tensor]}, None
            completion = {"model": self._writer, "prompt": texts[0], "max_tokens": 3 + number % 4, "n": 1 + number % 2}
            yield "/openai/v1/completions", completion, None
            yield _PREDICT.format(self._classifier), {"instances": "no list"}, "invalid_request"
            yield _PREDICT.format("nope"), {"instances": texts}, "model_not_found"
            yield _INFER.format("nope"), {"inputs": [tensor]}, "model_not_found"
            yield "/openai/v1/completions", {"model": self._writer, "prompt": texts[0], "n": 0}, "invalid_request"


class Samples:
    """Samples of `/metrics`."""

    def __init__(self, server: Server) -> None:
        answer = requests.get(f"{server.url}/metrics", timeout=60)
        assert answer.headers["content-type"].startswith("text/plain; version=")
        self._samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]

    @property
    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {sample.name for sample in self._samples}

    def sums(self, name: str, *labels: str) -> dict[Any, float]:
        """Sum a metric by some of its labels over the others; zeros are left out."""
        sums: defaultdict[Any, float] = defaultdict(float)
        for sample in self._samples:
            if sample.name == name:
                key = tuple(sample.labels[label] for label in labels)
                sums[key[0] if len(key) == 1 else key] += sample.value
        return {key: value for key, value in sums.items() if value}


def expressions() -> list[str]:
    """Return all queries of the dashboard with its variables set."""
    dashboard = json.loads((ROOT / "configs" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [text.replace("$model_name", ".*").replace("$__rate_interval", "1m") for text in found]


def metrics_in(expression: str) -> set[str]:
    """Return the metrics that a query of the dashboard reads."""
    return set(re.findall(r"(\w+)\{", expression))


def documented_metrics() -> set[str]:
    """Return the metrics in the tables of docs/observability.md."""
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    section = page.split("## Metrics\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
