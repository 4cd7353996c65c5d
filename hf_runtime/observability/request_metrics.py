"""What the entry service tells Prometheus of requests; with several workers, the sums of all of them."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from hf_runtime.observability.request_record import RequestRecord

_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

#: By the beginning of the path. Other routes, such as that of metrics themselves, are not counted.
_PROTOCOLS = {"/v1/": "v1", "/v2/": "v2", "/openai/": "openai"}


class RequestMetrics:
    """An observer of requests."""

    def start(self) -> None:
        """Make what is counted, in a process that has started; the first request would wait for it, 10 ms."""
        _families()

    def __call__(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        protocol = next((name for start, name in _PROTOCOLS.items() if record.path.startswith(start)), None)
        if protocol is None:
            return
        assert record.ended is not None, "this is a bug: a request was told before its end"
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
    # Imported late: BentoML says where metrics of several processes gather only once a process has started.
    from prometheus_client import Counter, Histogram

    of_request = ["model_name", "protocol"]
    return SimpleNamespace(
        requests=Counter("requests", "HTTP requests by status; 499 is a client that left.", [*of_request, "code"]),
        errors=Counter("request_errors", "Requests that were refused or failed, by kind.", [*of_request, "error"]),
        instances=Counter("request_instances", "Instances that models were given.", of_request),
        duration=Histogram("request_seconds", "From headers to the end of the answer.", of_request, buckets=_SECONDS),
        # KServe's names and label.
        preprocess=Histogram("request_preprocess_seconds", "Until the model is asked.", ["model_name"]),
        predict=Histogram("request_predict_seconds", "While the model is asked.", ["model_name"]),
        postprocess=Histogram("request_postprocess_seconds", "After the model's answer.", ["model_name"]),
    )
