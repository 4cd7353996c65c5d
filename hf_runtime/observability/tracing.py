"""OpenTelemetry traces of this process.

An unreachable collector neither blocks the server nor fills its log.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from threading import Thread
from time import monotonic

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import NoOpTracer, Tracer

#: Seconds that the stop of a process may wait for a collector.
_FLUSH_SECONDS = 5.0

#: Seconds between two warnings of the same logger about a collector.
_SILENT_SECONDS = 300.0

#: Logs each span that is dropped while the collector is unreachable.
_QUEUE_LOGGER = "opentelemetry.sdk._shared_internal"


class Tracing:
    """Tracer whose spans are sent in the background, from `start` to `stop`.

    Attributes:
        tracer: creates spans; before `start`, they are discarded.
    """

    def __init__(self, url: str) -> None:
        self.tracer: Tracer = NoOpTracer()
        self._url = url
        self._provider: TracerProvider | None = None

    def start(self, process: str, exporter: SpanExporter | None = None) -> None:
        """Start to send spans.

        OpenTelemetry's SDK reads the variables for its samplers and its queue.

        Args:
            process: name of this process, unique in the server.
            exporter: used instead of OTLP over HTTP.
        """
        ours = {SERVICE_NAME: "hugging-face-runtime", SERVICE_INSTANCE_ID: f"{socket.gethostname()}/{process}"}
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence.
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _otlp_exporter(self._url)))
        self.tracer = self._provider.get_tracer("hugging-face-runtime")

    async def stop(self) -> None:
        """Send the remaining spans, but wait a few seconds at most."""
        if self._provider is not None:
            # A daemon thread does not block the exit: the SDK's own limit is 30 s, after which a process may be killed.
            sending = Thread(target=self._provider.shutdown, daemon=True)
            sending.start()
            await asyncio.get_running_loop().run_in_executor(None, sending.join, _FLUSH_SECONDS)


def _otlp_exporter(url: str) -> SpanExporter:
    # Imported here, so that only processes with tracing load it.
    from opentelemetry.exporter.otlp.proto.http import trace_exporter

    for name in (trace_exporter.__name__, _QUEUE_LOGGER):
        logging.getLogger(name).addFilter(_RateLimit())
    return trace_exporter.OTLPSpanExporter(endpoint=url)


class _RateLimit(logging.Filter):
    """Filter that lets one record pass, then none for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if (now := monotonic()) < self._next:
            return False
        self._next = now + _SILENT_SECONDS
        return True
