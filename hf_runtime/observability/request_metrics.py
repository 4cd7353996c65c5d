"""Prometheus metrics of requests, summed over all entry processes."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from hf_runtime.contract.protocols import find_protocol
from hf_runtime.observability.request_record import RequestRecord

_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class RequestMetrics:
    """Observer that counts finished requests."""

    def start(self) -> None:
        """Create the metrics once the process has started; otherwise the first request waits 10 ms."""
        _families()

    def __call__(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        protocol = find_protocol(record.path)
        # Other routes, such as /metrics, are not counted.
        if protocol is None:
            return
        assert record.ended is not None, "this is a bug: a request was reported before its end"
        families, model = _families(), record.model_name or ""
        families.requests.labels(model, protocol, record.status).inc()
        families.duration.labels(model, protocol).observe(record.ended - record.started)
        if record.error is not None:
            families.errors.labels(model, protocol, record.error).inc()
        if record.predict_started is not None and record.predict_ended is not None:
            families.instances.labels(model, protocol).inc(record.instances)
            families.preprocess.labels(model).observe(record.predict_started - record.started)
            families.predict.labels(model).observe(record.predict_ended - record.predict_started)
            families.postprocess.labels(model).observe(record.ended - record.predict_ended)


@cache
def _families() -> Any:
    # Imported late: BentoML sets the multiprocess directory of prometheus_client only after a process has started.
    from prometheus_client import Counter, Histogram

    of_request = ["model_name", "protocol"]
    return SimpleNamespace(
        requests=Counter(
            "requests",
            "Number of HTTP requests, by protocol (v1, v2, openai) and status. 499 means that the client disconnected.",
            [*of_request, "code"],
        ),
        errors=Counter(
            "request_errors",
            "Number of requests that were refused or failed, by error code, such as invalid_request or overloaded.",
            [*of_request, "error"],
        ),
        instances=Counter("request_instances", "Number of instances that were sent to models.", of_request),
        duration=Histogram(
            "request_seconds",
            "Time in seconds from the headers of a request to the end of its response.",
            of_request,
            buckets=_SECONDS,
        ),
        # Same names and label as in KServe.
        preprocess=Histogram(
            "request_preprocess_seconds",
            "Time in seconds from the headers of a request until its instances are sent to the model.",
            ["model_name"],
        ),
        predict=Histogram(
            "request_predict_seconds", "Time in seconds until the model has answered all instances.", ["model_name"]
        ),
        postprocess=Histogram(
            "request_postprocess_seconds",
            "Time in seconds from the model's last answer to the end of the response.",
            ["model_name"],
        ),
    )
