"""A runner in its own process: one model, for entry services and for BentoML's own clients."""

from __future__ import annotations

import asyncio
import logging
import os
from threading import Timer
from typing import Any

import bentoml
from starlette.websockets import WebSocket

from hf_runtime.contract.errors import InferenceFailed, ServingError
from hf_runtime.draining import Drain
from hf_runtime.observability.item_spans import ItemTracing
from hf_runtime.observability.model_metrics import ModelMetrics
from hf_runtime.observability.tracing import Tracing
from hf_runtime.rpc.server import serve_connection
from hf_runtime.settings import ModelSettings, ServerSettings
from runners.host import ModelHost

logger = logging.getLogger(__name__)

#: What a process whose device is broken has to end by itself.
_LAST_SECONDS = 5.0


class RunnerProcess:
    """Hosts one model, and answers whoever is connected."""

    def __init__(self, settings: ModelSettings, server: ServerSettings) -> None:
        url = server.traces_url
        self._tracing = Tracing(url) if url is not None else None
        items = ItemTracing(self._tracing, settings.name, settings.task) if self._tracing is not None else None
        self._name = bentoml.server_context.service_name or "runner"
        self._host = ModelHost(settings, items, ModelMetrics(settings.name, self._name), self._end)
        self._connections = Drain()
        self._running: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether items are answered."""
        return self._host.state.status == "ready"

    def start(self) -> None:
        """Load the model beside the event loop, so that health is answered from the first moment."""
        if self._tracing is not None:
            self._tracing.start(self._name)
        self._running = asyncio.create_task(self._host.run())
        self._connections.hold_signals()

    async def serve(self, websocket: WebSocket) -> None:
        """Answer one entry process until it leaves."""
        with self._connections.one_more():
            await serve_connection(websocket, self._host)

    async def stop(self) -> None:
        """Stop computing, and tell what is left to tell."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._tracing is not None:
            await self._tracing.stop()

    def _end(self) -> None:
        """End this process, so that another takes its place, once those who wait have been told."""
        # A driver may hang while it is left.
        last = Timer(_LAST_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()
        # As soon as what is due on the event loop is done: answers are among it.
        asyncio.get_running_loop().call_soon(self._connections.stop_now)

    async def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer `{"instance": …, "parameters": {…}}` items with `{"result": …}` or `{"error": …}` each."""
        return list(await asyncio.gather(*(self._answer(item) for item in items)))

    async def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        try:
            result = await self._host.submit(item.get("instance"), item.get("parameters") or {})
            # Imported here: it needs torch, which the model's thread has imported.
            from runners.tasks.jsonable import jsonable

            return {"result": jsonable(result)}
        except ServingError as error:
            return {"error": {"code": error.code, "message": error.message}}
        except Exception:
            logger.exception("an item failed")
            failed = InferenceFailed("the server failed; its log has the details")
            return {"error": {"code": failed.code, "message": failed.message}}
