"""Runner process: one model, for entry processes and BentoML clients."""

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

#: Seconds in which a process with a broken device must end before it is killed.
_EXIT_TIMEOUT = 5.0


class RunnerProcess:
    """Process that hosts one model and answers its connections."""

    def __init__(self, settings: ModelSettings, server: ServerSettings) -> None:
        url = server.traces_url
        self._tracing = Tracing(url) if url is not None else None
        items = ItemTracing(self._tracing, settings.name, settings.task) if self._tracing is not None else None
        self._name = bentoml.server_context.service_name or "runner"
        self._host = ModelHost(settings, items, ModelMetrics(settings.name, self._name), self._end_process)
        self._connections = Drain()
        self._host_task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """True while the model answers items."""
        return self._host.state.status == "ready"

    def start(self) -> None:
        """Start to load the model in a worker thread, while the event loop answers health checks."""
        if self._tracing is not None:
            self._tracing.start(self._name)
        self._host_task = asyncio.create_task(self._host.run())
        self._connections.hold_signals()

    async def serve(self, websocket: WebSocket) -> None:
        """Answer one entry process until it disconnects."""
        with self._connections.count_work():
            await serve_connection(websocket, self._host)

    async def stop(self) -> None:
        """Stop the model, and export the remaining spans."""
        if self._host_task is not None:
            self._host_task.cancel()
            await asyncio.gather(self._host_task, return_exceptions=True)
        if self._tracing is not None:
            await self._tracing.stop()

    def _end_process(self) -> None:
        """End this process, so that it is restarted, after pending answers are sent."""
        # A driver may hang at exit.
        timer = Timer(_EXIT_TIMEOUT, os._exit, (1,))
        timer.daemon = True
        timer.start()
        # After the callbacks that are due on the event loop, which send the answers.
        asyncio.get_running_loop().call_soon(self._connections.stop_now)

    async def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer a batch of items.

        Args:
            items: `{"instance": …, "parameters": {…}}` each.

        Returns:
            `{"result": …}` or `{"error": …}` for each item.
        """
        return list(await asyncio.gather(*(self._answer(item) for item in items)))

    async def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        try:
            result = await self._host.submit(item.get("instance"), item.get("parameters") or {})
            # Imported here, because it needs torch, which the compute thread has imported by now.
            from runners.tasks.jsonable import to_jsonable

            return {"result": to_jsonable(result)}
        except ServingError as error:
            return {"error": {"code": error.code, "message": error.message}}
        except Exception:
            logger.exception("Item failed")
            failed = InferenceFailed("the server failed; its log has the details")
            return {"error": {"code": failed.code, "message": failed.message}}
