"""The BentoML services: one runner for each configured model, and the entry service that KServe's clients talk to."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import bentoml
from bentoml.images import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from bento_arguments import Arguments, given_arguments, image
from draining import Drain
from lean_service import LeanService
from loading import LoadError
from loading.architecture import resolve_task
from loading.custom_code import allowed_pipeline
from loading.storage import check_uri
from logs import configure_logging
from observability.access_log import log_access
from observability.metrics_directory import own_metrics_directory
from observability.request_metrics import RequestMetrics
from observability.requests import Observer
from observability.tracing import Tracing
from protocols.api_keys import KeyRing
from protocols.app import create_app
from protocols.callers import Authentication
from protocols.examples import curl_example
from protocols.http_server import limit_heads
from protocols.inference import Models
from runners.service import runner_service
from settings import ModelSettings, ServerSettings, Settings, SettingsError, load_settings
from transport.client import RunnerClient
from transport.model_client import ModelClient
from transport.replicas import Replicas

logger = logging.getLogger(__name__)


def _configured() -> tuple[Arguments, Settings]:
    """The arguments and the settings, with every model's task known; a wrong one stops the start with one line."""
    try:
        own_metrics_directory()
        arguments = given_arguments()
        settings = load_settings(arguments.config, arguments.model_uri)
        for model in settings.models:
            check_uri(model)
        models = tuple(resolve_task(model, own_code=allowed_pipeline(model) is not None) for model in settings.models)
        return arguments, settings.model_copy(update={"models": models})
    except (SettingsError, LoadError) as error:
        raise SystemExit(f"Error: {error}") from None


class _EntryService(LeanService):
    """Without BentoML's time-out, too.

    Every request has a deadline of our own, answered in the shape of its protocol. BentoML's keeps a timer alive for
    the whole time-out after a request is answered: at 1,000 requests a second, hundreds of megabytes.
    """

    left_out = LeanService.left_out | {"TimeoutMiddleware"}
    keys: KeyRing
    settings: ServerSettings

    def to_asgi(self, is_main: bool = True) -> Any:
        """The application, in which BentoML's own routes need a key like ours."""
        app = super().to_asgi(is_main)
        own = {route.path for route in app.routes if isinstance(route, Route)}
        # Within BentoML's layers: a browser asks whether it may ask without a key.
        app.user_middleware.append(Middleware(Authentication, keys=self.keys, settings=self.settings, only=own))
        return app


def _client(name: str, runners: Sequence[Any]) -> ModelClient:
    clients = [RunnerClient(name, partial(getattr, runner, "url")) for runner in runners]
    return clients[0] if len(clients) == 1 else Replicas(clients)


def _entry_service(settings: Settings, runners: Mapping[str, Sequence[Any]], image: Image) -> Any:
    server = settings.server
    configure_logging(server, {*server.keys, *(secret for model in settings.models for secret in model.secrets)})
    keys = KeyRing(server.keys, server.api_keys_file)
    clients = {name: _client(name, replicas) for name, replicas in runners.items()}
    tracing = Tracing(server.traces_url) if server.traces_url is not None else None
    models = Models(clients, {model.name: model.task for model in settings.models if model.task is not None})

    tasks: list[asyncio.Task[None]] = []

    def give_up() -> None:
        """Items whose runner is not heard of any more are answered with an error."""
        for task in tasks:
            task.cancel()

    drain = Drain(server.drain_seconds, give_up)

    @asynccontextmanager
    async def connected(_: Starlette) -> AsyncIterator[None]:
        if tracing is not None:
            tracing.start(f"{bentoml.server_context.service_name}-{bentoml.server_context.worker_index}")
        tasks.extend(asyncio.create_task(client.run()) for client in clients.values())
        drain.hold_signals()
        if bentoml.server_context.worker_index == 1:
            for note in settings.notes:
                logger.warning("%s", note)
            tasks.append(asyncio.create_task(_announce(settings.models, clients, service)))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tracing is not None:
            await tracing.stop()

    class Entry:
        """Answers the protocols; computes nothing itself."""

        async def __is_ready__(self) -> bool:
            return models.ready and not drain.stopping

        @bentoml.on_deployment
        @staticmethod
        def check_configured() -> None:
            """Stop the start, before any process, if there is nothing to serve."""
            if not settings.models:
                raise SystemExit(
                    "Error: STORAGE_URI is not set: give a model folder or hf://owner/model, "
                    "or a file of InferenceServices as RUNTIME_CONFIG."
                )

    every = [runner for replicas in runners.values() for runner in replicas]
    dependencies = {f"runner_{number}": bentoml.depends(runner) for number, runner in enumerate(every)}
    service = bentoml.service(
        name="HuggingFaceRuntime",
        workers=server.api_workers,
        image=image,
        service_class=type("EntryService", (_EntryService,), {"keys": keys, "settings": server}),
        # The access log is our own.
        logging={"access": {"enabled": False}},
        http={
            "cors": {
                "enabled": bool(server.origins),
                "access_control_allow_origins": server.origins,
                "access_control_allow_methods": ["GET", "POST", "OPTIONS"],
                "access_control_allow_headers": ["*"],
            }
        },
        # The runners tell how they are over their connections, and one that has failed must not fail the others.
        runner_probe={"enabled": False},
    )(type("HuggingFaceRuntime", (Entry,), {"__doc__": Entry.__doc__, **dependencies}))
    observers: list[Observer] = [RequestMetrics(), *([log_access] if server.access_log else [])]
    service.mount_asgi_app(create_app(models, server, connected, observers, tracing, keys, drain), path="/")
    return service


async def _announce(models: tuple[ModelSettings, ...], clients: Mapping[str, ModelClient], service: Any) -> None:
    """Say where the models are served and how to ask them, once the last of them is ready or has failed."""
    states = {name: await client.wait_settled() for name, client in clients.items()}
    for model in models:
        state = states[model.name]
        if state.status == "ready":
            what = model.task or model.asked_task or "custom pipeline"
            logger.info("%s (%s) is served. Try:\n%s", model.name, what, curl_example(model, service.url))
        else:
            logger.error("%s is not served: %s", model.name, state.reason)


def _models_or_a_place_for_one(settings: Settings) -> tuple[ModelSettings, ...]:
    """A Bento is built before its model is known; its runner must have a place in it all the same."""
    return settings.models or (ModelSettings(storage_uri="/model", task="text-generation"),)


def _runners(
    models: tuple[ModelSettings, ...], server: ServerSettings, stored_model: str | None
) -> dict[str, list[Any]]:
    """The runners of each model: as many as it has replicas, each a service of its own with its own GPUs."""
    numbers = itertools.count(1)
    return {
        model.name: [runner_service(model, next(numbers), server, stored_model) for _ in range(model.replicas)]
        for model in models
    }


limit_heads()
_ARGUMENTS, _SETTINGS = _configured()
_RUNNERS = _runners(_models_or_a_place_for_one(_SETTINGS), _SETTINGS.server, _ARGUMENTS.model)

HuggingFaceRuntime = _entry_service(_SETTINGS, _RUNNERS, image(_ARGUMENTS.torch))

#: The first model alone, for BentoML's own clients: `bentoml serve service:Runner`.
Runner = next(iter(_RUNNERS.values()))[0]
