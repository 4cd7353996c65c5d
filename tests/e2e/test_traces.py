"""Promise: with tracing enabled, each request is one trace that continues the client's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.e2e import checkpoints
from tests.e2e.collector import Collector, ReceivedSpan, collecting
from tests.e2e.server import Server, serving
from tests.project import ROOT

pytestmark = pytest.mark.xdist_group("traces")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    tasks = ("text-classification", "text-generation", "text2text-generation")
    for task in tasks:
        checkpoints.CHECKPOINTS[task](folder / task)
    documents = [checkpoints.inference_service(task, folder / task, {"TASK": task}) for task in tasks]
    (folder / "models.yaml").write_text(yaml.safe_dump_all(documents))
    return folder / "models.yaml"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(config: Path, collector: Collector) -> Iterator[Server]:
    with serving(
        models=3,
        RUNTIME_CONFIG=str(config),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_SERVICE_NAME="ours",
        ACCESS_LOG="true",
        LOG_FORMAT="json",
        LOG_LEVEL="DEBUG",
    ) as server:
        yield server


def _predict(
    server: Server, model: str, request_id: str, parameters: dict[str, Any] | None = None, **headers: str
) -> requests.Response:
    return requests.post(
        f"{server.url}/v1/models/{model}:predict",
        json={"instances": ["a good text"], "parameters": parameters or {}},
        headers={"X-Request-Id": request_id, **headers},
        timeout=60,
    )


def _tree(trace: list[ReceivedSpan]) -> dict[str, dict[str, ReceivedSpan]]:
    """Map the name of each span to its children by their names."""
    return {
        parent.name: {span.name: span for span in trace if span.parent_id == parent.span_id}
        for parent in trace
    }  # fmt: skip


def test_a_request_is_one_trace_through_both_processes(server: Server, collector: Collector) -> None:
    assert _predict(server, "text-classification", "encoder").status_code == 200
    trace = collector.trace("encoder")
    tree = _tree(trace)
    (root,) = (span for span in trace if span.kind == "SERVER")
    assert root.name == "POST /v1/models/{name}:predict"
    assert root.parent_id == ""
    assert (
        root.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/v1/models/{name}:predict",
            "url.path": "/v1/models/text-classification:predict",
            "http.response.status_code": 200,
            "client.address": "127.0.0.1",
            "gen_ai.request.model": "text-classification",
        }.items()
    )
    item = tree[root.name]["text-classification text-classification"]
    steps = tree[item.name]
    assert set(steps) == {"queue", "prepare", "forward", "finish"}
    assert steps["forward"].attributes["batch.rows"] == 1
    assert steps["forward"].attributes["batch.tokens"] > 3
    assert steps["forward"].attributes["batch.padding_tokens"] == 0
    assert item.started == steps["queue"].started
    assert steps["queue"].ended == steps["forward"].started
    assert all(item.started <= step.started <= step.ended <= item.ended for step in steps.values())
    assert not any(span.failed for span in trace)
    assert {span.resource["service.name"] for span in trace} == {"ours"}
    assert item.resource["service.instance.id"] != root.resource["service.instance.id"]


@pytest.mark.parametrize("model", ["text-generation", "text2text-generation"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_generated_text_is_traced_with_its_tokens(
    server: Server, collector: Collector, model: str, stream: bool
) -> None:
    request_id = f"{model}-{stream}"
    parameters = {"max_new_tokens": 5, "ignore_eos": True, "stream": stream}
    assert _predict(server, model, request_id, parameters).status_code == 200
    steps = _tree(collector.trace(request_id))[f"{model} {model}"]
    assert set(steps) == {"queue", "prepare", "forward"} | (set() if stream else {"finish"})
    forward = steps["forward"]
    assert forward.attributes["gen_ai.usage.input_tokens"] > 1
    assert forward.attributes["gen_ai.usage.output_tokens"] == 5
    assert forward.attributes["gen_ai.usage.cache_read.input_tokens"] >= 0
    assert forward.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert forward.started < forward.events["first_token"] < forward.ended


def test_each_item_of_a_request_of_any_protocol_has_a_span(server: Server, collector: Collector) -> None:
    body = {"model": "text-generation", "prompt": ["a", "b"], "max_tokens": 2}
    headers = {"X-Request-Id": "openai"}
    answer = requests.post(f"{server.url}/openai/v1/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    trace = collector.trace("openai")
    collector.wait(lambda spans: sum(span.trace_id == trace[0].trace_id for span in spans) == 11)
    names = sorted(span.name for span in collector.trace("openai"))
    assert names.count("POST /openai/v1/completions") == 1
    assert names.count("text-generation text-generation") == names.count("forward") == 2


def test_a_clients_trace_is_continued(server: Server, collector: Collector) -> None:
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    _predict(server, "text-classification", "begun", traceparent=f"00-{trace_id}-{span_id}-01", tracestate="a=b")
    trace = collector.trace("begun")
    assert {span.trace_id for span in trace} == {trace_id}
    assert [span.parent_id for span in trace if span.kind == "SERVER"] == [span_id]


def test_an_unsampled_trace_of_a_client_is_not_recorded(server: Server, collector: Collector) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    _predict(server, "text-classification", "unrecorded", traceparent=f"00-{trace_id}-00f067aa0ba902b7-00")
    _predict(server, "text-classification", "after")
    collector.trace("after")
    assert trace_id not in {span.trace_id for span in collector.spans}


def test_an_item_that_fails_marks_its_span(server: Server, collector: Collector) -> None:
    assert _predict(server, "text-classification", "refused", {"secret": 1}).status_code == 400
    trace = collector.trace("refused")
    failed = [span for span in trace if span.failed]
    assert [span.attributes["error.type"] for span in failed] == ["invalid_request"]
    assert failed[0].kind == "INTERNAL"
    assert "secret" not in str(trace)


def test_log_lines_of_both_processes_carry_the_trace(server: Server, collector: Collector) -> None:
    _predict(server, "text-classification", "logged")
    (root,) = (span for span in collector.trace("logged") if span.kind == "SERVER")
    server.wait_for("POST.*logged|logged.*POST")
    lines = [json.loads(line) for line in server.log]
    about = [line for line in lines if line.get("request_id") == "logged"]
    assert {line["process"] for line in about} == {"HuggingFaceRuntime:1", "runner-1:1"}
    assert {(line["trace_id"], line["span_id"]) for line in about} == {(root.trace_id, root.span_id)}


def test_buffered_spans_are_sent_when_the_server_stops(config: Path) -> None:
    folder = str(config.parent / "text-classification")
    with collecting() as collector:
        never = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
        with serving(
            never, STORAGE_URI=folder, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces"
        ) as server:
            _predict(server, "model", "last")
            assert collector.spans == []
            server.terminate()
            server.wait_ended()
        names = sorted(span.name for span in collector.trace("last"))
    assert names == sorted(
        ["POST /v1/models/{name}:predict", "text-classification model", "queue", "prepare", "forward", "finish"]
    )


def test_an_unreachable_collector_is_logged_and_requests_are_answered(config: Path) -> None:
    folder = str(config.parent / "text-classification")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        away = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        with serving(away, STORAGE_URI=folder) as server:
            server.wait_for("OTEL_EXPORTER_OTLP_PROTOCOL=grpc: traces are sent as http/protobuf")
            for number in range(50):
                assert _predict(server, "model", str(number)).status_code == 200
            server.wait_for("exporting span", times=2)  # one line in each process
            for number in range(50):
                assert _predict(server, "model", str(number)).status_code == 200
            server.terminate()
            server.wait_ended()
        assert server.count("exporting span") == 2, server.log
        assert server.count("Queue full") == 2, server.log
        assert server.count("(?i)span") == 4, server.log


@pytest.mark.parametrize("switch", [{"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}])
def test_no_span_is_sent_if_traces_are_disabled(config: Path, switch: dict[str, str]) -> None:
    folder = str(config.parent / "text-classification")
    with collecting() as collector:
        with serving(switch, STORAGE_URI=folder, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as server:
            assert _predict(server, "model", "x").status_code == 200
            server.terminate()
            server.wait_ended()
        assert collector.spans == []


def test_requests_pass_through_no_tracing_or_logging_layer(config: Path) -> None:
    code = (
        "import service\n"
        "for one in (service.HuggingFaceRuntime, service.Runner):\n"
        "    print([layer.cls.__name__ for layer in one.to_asgi().user_middleware])"
    )
    environment = {**os.environ, "STORAGE_URI": str(config.parent / "text-classification"), "BENTOML_DO_NOT_TRACK": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entry, runner = done.stdout.splitlines()
    for layer in ("OpenTelemetry", "AccessLog"):
        assert layer not in entry
        assert layer not in runner
    assert "Timeout" not in entry
    assert "Context" in entry
