"""Promise: items' spans belong to their own request, whatever batch computed them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hf_runtime.contract.errors import ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.request_context import RequestContext
from hf_runtime.observability.item_spans import ItemTracing
from hf_runtime.observability.tracing import Tracing
from runners.engines.batch.engine import BatchEngine
from tests.scripted import ScriptedRunner

TRACES = [f"{number:032x}" for number in range(1, 5)]


@pytest.fixture
def tracing() -> Iterator[tuple[Tracing, InMemorySpanExporter]]:
    tracing, exporter = Tracing("http://nowhere"), InMemorySpanExporter()
    tracing.start("test", exporter)
    yield tracing, exporter
    asyncio.run(tracing.stop())


def _request_context(trace: str) -> RequestContext:
    return RequestContext("id", f"00-{trace}-{'1' * 16}-01")


async def _computed(runner: ScriptedRunner, tracing: ItemTracing, texts: dict[str, str]) -> None:
    """Compute items, given by their traces, in one batch."""
    with ThreadPoolExecutor(1) as compute:
        engine = BatchEngine(runner, max_queue_size=100, compute=compute)
        running = asyncio.create_task(engine.run())
        runner.gate.clear()
        first = engine.submit(Item("first"))
        await asyncio.to_thread(runner.entered.wait, 30)
        futures: list[asyncio.Future[Any]] = []
        for trace, text in texts.items():
            spans = tracing.start_item(_request_context(trace))
            futures.append(engine.submit(Item(text, request_context=_request_context(trace), trace=spans)))
            futures[-1].add_done_callback(spans.end)
        with pytest.raises(ServingError):
            await engine.submit(Item("bad"))  # the last item is prepared: now all others wait for the model
        runner.gate.set()
        await asyncio.gather(first, *futures, return_exceptions=True)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _by_trace(spans: tuple[ReadableSpan, ...]) -> dict[str, dict[str, ReadableSpan]]:
    traces: dict[str, dict[str, ReadableSpan]] = {}
    for span in spans:
        assert span.context is not None
        traces.setdefault(f"{span.context.trace_id:032x}", {})[span.name] = span
    return traces


def test_items_of_one_batch_each_have_a_span_in_their_own_trace(tracing: tuple[Tracing, InMemorySpanExporter]) -> None:
    ours, exporter = tracing
    texts = dict(zip(TRACES[:3], ["aa", "bbbb", "c"], strict=True))
    asyncio.run(_computed(ScriptedRunner(), ItemTracing(ours, "x", "text-classification"), texts))
    asyncio.run(ours.stop())
    traces = _by_trace(exporter.get_finished_spans())
    assert set(traces) == set(texts)
    for spans in traces.values():
        assert set(spans) == {"text-classification x", "queue", "prepare", "forward", "finish"}
        assert spans["forward"].attributes == {"batch.rows": 3, "batch.tokens": 7, "batch.padding_tokens": 5}
        assert not any(event for span in spans.values() for event in span.events)
    assert len({spans["forward"].start_time for spans in traces.values()}) <= 3


def test_a_failed_item_marks_only_its_own_span_and_quotes_no_payload(
    tracing: tuple[Tracing, InMemorySpanExporter],
) -> None:
    ours, exporter = tracing
    texts = dict(zip(TRACES, ["good", "crash", "bug", "bad"], strict=True))
    asyncio.run(_computed(ScriptedRunner(), ItemTracing(ours, "x", "text-classification"), texts))
    asyncio.run(ours.stop())
    traces = _by_trace(exporter.get_finished_spans())
    failed = {
        texts[trace]: (span.attributes or {}).get("error.type")
        for trace, spans in traces.items()
        for span in spans.values()
        if not span.status.is_ok and span.status.is_unset is False
    }
    assert failed == {"crash": "inference_failed", "bug": "inference_failed", "bad": "invalid_request"}
    assert "forward" not in traces[TRACES[3]]
    assert all(span.status.description is None for spans in traces.values() for span in spans.values())


def test_a_cancelled_item_ends_its_span(tracing: tuple[Tracing, InMemorySpanExporter]) -> None:
    ours, exporter = tracing

    async def scenario() -> None:
        spans = ItemTracing(ours, "x", "text-generation").start_item(_request_context(TRACES[0]))
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(spans.end)
        future.cancel()
        await asyncio.sleep(0)

    asyncio.run(scenario())
    asyncio.run(ours.stop())
    queue, item = exporter.get_finished_spans()
    assert queue.name == "queue"
    assert (item.attributes or {})["error.type"] == "cancelled"
    assert (item.attributes or {})["gen_ai.operation.name"] == "text_completion"
