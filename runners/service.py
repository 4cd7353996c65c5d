"""A runner as a BentoML service: one process with one model, on its own GPUs."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import bentoml
import numpy as np
from bentoml.models import BentoModel
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from acceleration.allocator import MEMORY_ENVIRONMENT
from acceleration.cores import THREAD_ENVIRONMENT
from draining import Drain
from errors import ServingError
from lean_service import LeanService
from logs import configure_logging
from observability.item_spans import ItemTracing
from observability.model_metrics import ModelMetrics
from observability.tracing import Tracing
from runners.host import ModelHost
from settings import ModelSettings, ServerSettings
from transport.server import PATH, serve_connection

#: BentoML's proxy between services closes its session, with calls in flight, after so many requests or seconds.
_NEVER = 10**9


class RunnerService:
    """Hosts one model: for the entry service over a WebSocket, for BentoML's own clients as `predict`."""

    settings: ModelSettings
    server: ServerSettings

    def __init__(self) -> None:
        model = self.settings
        configure_logging(self.server, model.secrets, level=model.log_level, model=model.name)
        # Not among the `envs` below: those are written into a Bento.
        os.environ.update({name: v.get_secret_value() for name, v in self.settings.secret_environment.items()})
        url = self.server.traces_url
        self._tracing = Tracing(url) if url is not None else None
        items = ItemTracing(self._tracing, model.name, model.task) if self._tracing is not None else None
        self.host = ModelHost(model, items, ModelMetrics(model.name, bentoml.server_context.service_name or "runner"))
        self._connections = Drain()
        self._running: asyncio.Task[None] | None = None

    @bentoml.on_startup
    async def start(self) -> None:
        """Load the model beside the event loop, so that health is answered from the first moment."""
        if self._tracing is not None:
            self._tracing.start(bentoml.server_context.service_name or "runner")
        self._running = asyncio.create_task(self.host.run())
        self._connections.hold_signals()

    async def serve(self, websocket: WebSocket) -> None:
        """Answer one entry process until it leaves."""
        with self._connections.one_more():
            await serve_connection(websocket, self.host)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Stop computing, and tell what is left to tell."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._tracing is not None:
            await self._tracing.stop()

    async def __is_ready__(self) -> bool:
        return self.host.state.status == "ready"

    @bentoml.api(batchable=True, max_batch_size=64)
    async def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer `{"instance": …, "parameters": {…}}` items with `{"result": …}` or `{"error": …}` each."""
        return list(await asyncio.gather(*(self._answer(item) for item in items)))

    async def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        try:
            result = await self.host.submit(item.get("instance"), item.get("parameters") or {})
        except ServingError as error:
            return {"error": {"code": error.code, "message": error.message}}
        return {"result": result.tolist() if isinstance(result, np.ndarray) else result}


def runner_service(
    settings: ModelSettings, number: int, server: ServerSettings, stored_model: str | None = None
) -> Any:
    """The BentoML service of one configured model, or of one replica of it.

    It is named by its number, not after the model: a Bento knows its services when it is built, its model only when
    it is served.

    Args:
        stored_model: tag of the model in BentoML's store that a Bento holds, whatever is served.
    """
    members = {"settings": settings, "server": server, "__doc__": RunnerService.__doc__}
    if stored_model is not None:
        members["stored_model"] = BentoModel(stored_model)
    service_class: Any = type("RunnerService", (RunnerService,), members)
    environment = {**MEMORY_ENVIRONMENT, **THREAD_ENVIRONMENT, **settings.environment}
    if settings.cuda_visible_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = settings.cuda_visible_devices
    service = bentoml.service(
        name=f"runner-{number}",
        service_class=LeanService,
        resources=_resources(settings),
        runner_connection={"max_requests": _NEVER, "max_age": float(_NEVER)},
        logging={"access": {"enabled": False}},
        # BentoML takes a variable without a value for one that must be set already.
        envs=[{"name": name, "value": value} for name, value in environment.items() if value],
    )(service_class)

    async def items(websocket: WebSocket) -> None:
        await bentoml.get_current_service().serve(websocket)

    service.mount_asgi_app(Starlette(routes=[WebSocketRoute(PATH, items)]), path="/")
    return service


def _resources(settings: ModelSettings) -> dict[str, float]:
    """Of one runner, in BentoML's units: cores, GiB, GPUs."""
    memory = settings.memory_limit / 2**30 if settings.memory_limit else None
    # BentoML's own choice of GPUs would take the place of the operator's.
    gpus = settings.gpus if settings.cuda_visible_devices is None else None
    wanted = {"cpu": settings.cpus, "memory": memory, "gpu": gpus}
    return {name: amount for name, amount in wanted.items() if amount}
