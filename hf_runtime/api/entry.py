"""Entry service in its own process: all protocols, connected to the runners of all models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import bentoml
from starlette.applications import Starlette

from hf_runtime.api.app import create_app
from hf_runtime.api.examples import make_curl_example
from hf_runtime.api.http.api_keys import KeyRing
from hf_runtime.api.inference import Models
from hf_runtime.bento.supervisor import end_server
from hf_runtime.draining import Drain
from hf_runtime.observability.access_log import log_access
from hf_runtime.observability.request_metrics import RequestMetrics
from hf_runtime.observability.request_record import Observer
from hf_runtime.observability.tracing import Tracing
from hf_runtime.rpc.client import RunnerClient
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.rpc.replicas import Replicas, wait_all_final
from hf_runtime.settings import Settings

logger = logging.getLogger(__name__)


class EntryApp:
    """HTTP application that sends items to the runners, which compute the answers.

    Args:
        runners: BentoML services of each model, by its name; they know their URLs.
        service: the entry service itself.

    Attributes:
        app: the application with all protocols.
    """

    def __init__(self, settings: Settings, keys: KeyRing, runners: Mapping[str, Sequence[Any]], service: Any) -> None:
        self._settings, self._service = settings, service
        server = settings.server
        key = server.runner_key.get_secret_value() if server.runner_key is not None else None
        self._clients = {name: _make_client(name, replicas, key) for name, replicas in runners.items()}
        self._tracing = Tracing(server.traces_url) if server.traces_url is not None else None
        self._tasks: list[asyncio.Task[None]] = []
        self._drain = Drain(server.drain_seconds, self._close_clients)
        self._models = Models(
            self._clients, {model.name: model.task for model in settings.models if model.task is not None}
        )
        self._metrics = RequestMetrics()
        observers: list[Observer] = [self._metrics, *([log_access] if server.access_log else [])]
        self.app = create_app(self._models, server, self._run, observers, self._tracing, keys, self._drain)

    @property
    def ready(self) -> bool:
        """True if models are ready and the server is not stopping."""
        return self._models.ready and not self._drain.stopping

    @asynccontextmanager
    async def _run(self, _: Starlette) -> AsyncIterator[None]:
        if self._tracing is not None:
            self._tracing.start(f"{bentoml.server_context.service_name}-{bentoml.server_context.worker_index}")
        self._metrics.start()
        self._tasks.extend(asyncio.create_task(client.run()) for client in self._clients.values())
        self._drain.hold_signals()
        if bentoml.server_context.worker_index == 1:
            for note in self._settings.notes:
                logger.warning("%s", note)
            self._tasks.append(asyncio.create_task(self._log_models()))
            if self._settings.server.exit_on_failure:
                self._tasks.append(asyncio.create_task(self._exit_if_all_fail()))
        yield
        self._close_clients()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tracing is not None:
            await self._tracing.stop()

    def _close_clients(self) -> None:
        """Close the runner connections; pending items fail."""
        for task in self._tasks:
            task.cancel()

    async def _log_models(self) -> None:
        """Log an example request for each model, once all models are ready or have failed."""
        states = {name: await client.wait_until_loaded() for name, client in self._clients.items()}
        for model in self._settings.models:
            state = states[model.name]
            if state.status == "ready":
                task = model.task or model.requested_task or "custom pipeline"
                example = make_curl_example(model, self._service.url)
                logger.info("%s (%s) is served. Try:\n%s", model.name, task, example)
            else:
                logger.error("%s is not served: %s", model.name, state.reason)

    async def _exit_if_all_fail(self) -> None:
        """Stop the server once every model has failed and none will be retried."""
        await wait_all_final(self._clients.values())
        logger.critical("All models failed to load and none will be retried: the server exits (EXIT_ON_FAILURE)")
        if not end_server():
            logger.error("Cannot stop the server: its parent process does not supervise it")


def _make_client(name: str, runners: Sequence[Any], key: str | None) -> ModelClient:
    clients = [RunnerClient(name, partial(getattr, runner, "url"), key) for runner in runners]
    return clients[0] if len(clients) == 1 else Replicas(clients)
