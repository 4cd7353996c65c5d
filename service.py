"""The BentoML services: one runner for each configured model, and the entry service that KServe's clients talk to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import bentoml
from starlette.applications import Starlette

from loading import LoadError
from loading.architecture import resolve_task
from loading.storage import check_uri
from logs import configure_logging
from protocols.app import create_app
from protocols.examples import curl_example
from protocols.inference import Models
from runners.service import runner_service
from settings import ModelSettings, Settings, SettingsError, load_settings
from transport.client import RunnerClient

logger = logging.getLogger(__name__)


def _configured() -> Settings:
    """The settings, with every model's task known; a wrong one stops the start with one line."""
    try:
        settings = load_settings()
        for model in settings.models:
            check_uri(model)
        return settings.model_copy(update={"models": tuple(resolve_task(model) for model in settings.models)})
    except (SettingsError, LoadError) as error:
        raise SystemExit(f"Error: {error}") from None


class _EntryService(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML has no types there
    """A BentoML service without BentoML's time-out.

    Every request has a deadline of our own, answered in the shape of its protocol. BentoML's keeps a timer alive for
    the whole time-out after a request is answered: at 1,000 requests a second, hundreds of megabytes.
    """

    def to_asgi(self, is_main: bool = True) -> Any:
        app: Any = super().to_asgi(is_main)
        app.user_middleware = [layer for layer in app.user_middleware if layer.cls.__name__ != "TimeoutMiddleware"]
        return app


def _entry_service(settings: Settings, runners: Mapping[str, Any]) -> Any:
    configure_logging(settings.server.log_level)
    clients = {name: RunnerClient(name, partial(getattr, runner, "url")) for name, runner in runners.items()}
    models = Models(clients, {model.name: model.task for model in settings.models if model.task is not None})

    @asynccontextmanager
    async def connected(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(client.run()) for client in clients.values()]
        if bentoml.server_context.worker_index == 1:
            tasks.append(asyncio.create_task(_announce(settings.models, clients, service)))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    class Entry:
        """Answers the protocols; computes nothing itself."""

        async def __is_ready__(self) -> bool:
            return models.ready

        @bentoml.on_deployment
        @staticmethod
        def check_configured() -> None:
            """Stop the start, before any process, if there is nothing to serve."""
            if not settings.models:
                raise SystemExit(
                    "Error: STORAGE_URI is not set: give a model folder or hf://owner/model, "
                    "or a file of InferenceServices as RUNTIME_CONFIG."
                )

    dependencies = {f"runner_{number}": bentoml.depends(runner) for number, runner in enumerate(runners.values())}
    service = bentoml.service(
        name="HuggingFaceRuntime",
        workers=settings.server.api_workers,
        service_class=_EntryService,
        logging={"access": {"enabled": settings.server.access_log}},
    )(type("HuggingFaceRuntime", (Entry,), {"__doc__": Entry.__doc__, **dependencies}))
    service.mount_asgi_app(create_app(models, settings.server, connected), path="/")
    return service


async def _announce(models: tuple[ModelSettings, ...], clients: Mapping[str, RunnerClient], service: Any) -> None:
    """Say where the models are served and how to ask them, once the last of them is ready or has failed."""
    states = {name: await client.wait_settled() for name, client in clients.items()}
    for model in models:
        state = states[model.name]
        if state.status == "ready":
            assert model.task is not None
            logger.info("%s (%s) is served. Try:\n%s", model.name, model.task, curl_example(model, service.url))
        else:
            logger.error("%s is not served: %s", model.name, state.reason)


def _models_or_a_place_for_one(settings: Settings) -> tuple[ModelSettings, ...]:
    """A Bento is built before its model is known; its runner must have a place in it all the same."""
    return settings.models or (ModelSettings(storage_uri="/model", task="text-generation"),)


_SETTINGS = _configured()
_RUNNERS = {
    model.name: runner_service(model, number)
    for number, model in enumerate(_models_or_a_place_for_one(_SETTINGS), start=1)
}

HuggingFaceRuntime = _entry_service(_SETTINGS, _RUNNERS)

#: The first model alone, for BentoML's own clients: `bentoml serve service:Runner`.
Runner = next(iter(_RUNNERS.values()))
