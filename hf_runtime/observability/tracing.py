"""OpenTelemetry traces of this process: where its spans go, and that a collector that is away harms nobody."""

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

#: Seconds that the end of a process may wait for a collector.
_LAST_CALL = 5.0

#: Seconds between two complaints of a kind about a collector.
_SILENCE = 300.0

#: Tells of each span that finds no room while the collector is away.
_QUEUE_LOGGER = "opentelemetry.sdk._shared_internal"


class Tracing:
    """Makes spans and sends them in the background, from `start` to `stop`.

    Attributes:
        tracer: makes spans that go nowhere before the start.
    """

    def __init__(self, url: str) -> None:
        self.tracer: Tracer = NoOpTracer()
        self._url = url
        self._provider: TracerProvider | None = None

    def start(self, process: str, exporter: SpanExporter | None = None) -> None:
        """Start sending; OpenTelemetry's SDK reads the variables of its samplers and of its queue.

        Args:
            process: name of this process among those of the server.
            exporter: in place of OTLP over HTTP.
        """
        ours = {SERVICE_NAME: "hugging-face-runtime", SERVICE_INSTANCE_ID: f"{socket.gethostname()}/{process}"}
        # The operator's OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _otlp(self._url)))
        self.tracer = self._provider.get_tracer("hugging-face-runtime")

    async def stop(self) -> None:
        """Send what is left, as far as the collector takes it in a few seconds."""
        if self._provider is not None:
            # A thread that nothing waits for: the SDK's own limit is half a minute, in which a process may be killed.
            sending = Thread(target=self._provider.shutdown, daemon=True)
            sending.start()
            await asyncio.get_running_loop().run_in_executor(None, sending.join, _LAST_CALL)


def _otlp(url: str) -> SpanExporter:
    # Imported here: only those who trace pay for it.
    from opentelemetry.exporter.otlp.proto.http import trace_exporter

    for name in (trace_exporter.__name__, _QUEUE_LOGGER):
        logging.getLogger(name).addFilter(_NowAndThen())
    return trace_exporter.OTLPSpanExporter(endpoint=url)


class _NowAndThen(logging.Filter):
    """Lets one record pass, then none for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if (now := monotonic()) < self._next:
            return False
        self._next = now + _SILENCE
        return True
