"""BentoML service of a runner: one process with one model, on its own GPUs."""

from __future__ import annotations

import os
from typing import Any

import bentoml
from bentoml.models import BentoModel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from hf_runtime.api.http.api_keys import KeyRing
from hf_runtime.api.http.authentication import HEALTH_PATHS, Authentication
from hf_runtime.bento.lean_service import LeanService
from hf_runtime.observability.setup import configure_logging
from hf_runtime.rpc import ITEMS_PATH
from hf_runtime.settings import ModelSettings, ServerSettings
from runners.kernels.allocator import MEMORY_ENVIRONMENT
from runners.kernels.cores import THREAD_ENVIRONMENT

#: Requests and seconds after which BentoML's proxy between services closes its session, even with calls in flight.
_NEVER = 10**9


class _GuardedService(LeanService):
    """Service that requires a key for all routes but health.

    The key is one of a client or of the entry service. It is required on sockets and ports alike.
    """

    server: ServerSettings

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the ASGI application, in which all routes but health require a key."""
        app = super().to_asgi(is_main)
        keys = KeyRing(self.server.runner_keys, self.server.api_keys_file)
        # Here, `/` is BentoML's page about the service, and `/health` is no route.
        health = HEALTH_PATHS - {"/", "/health"}
        app.user_middleware.append(Middleware(Authentication, keys=keys, settings=self.server, health=health))
        return app


class RunnerService:
    """Model runner with a WebSocket for the entry service and `predict` for BentoML clients."""

    settings: ModelSettings
    server: ServerSettings

    def __init__(self) -> None:
        # Imported here, because all processes import this module, and only one of them hosts a model.
        from runners.process import RunnerProcess

        model = self.settings
        secrets = {*model.secrets, *self.server.runner_keys}
        configure_logging(self.server, secrets, level=model.log_level, model=model.name)
        # Not in `envs` below, which are stored in a Bento.
        os.environ.update({name: v.get_secret_value() for name, v in model.secret_environment.items()})
        self.process = RunnerProcess(model, self.server)

    @bentoml.on_startup
    async def start(self) -> None:
        """Start to load the model."""
        self.process.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Stop the model."""
        await self.process.stop()

    async def __is_ready__(self) -> bool:
        return self.process.ready

    @bentoml.api(batchable=True, max_batch_size=64)
    async def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer a batch of items.

        Each item is `{"instance": …, "parameters": {…}}` and its answer `{"result": …}` or `{"error": …}`.
        """
        return await self.process.predict(items)


def create_runner_service(
    settings: ModelSettings, number: int, server: ServerSettings, stored_model: str | None = None
) -> Any:
    """Create the BentoML service of one replica of a model.

    The service is named after its number, not after the model, because a Bento fixes the names of its services when it
    is built, and its model only when it is served.

    Args:
        number: number of the runner, starting at 1.
        stored_model: tag of the model in BentoML's model store that a Bento includes; the served model may be another.
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
        service_class=type("GuardedService", (_GuardedService,), {"server": server}),
        resources=_resources(settings),
        runner_connection={"max_requests": _NEVER, "max_age": float(_NEVER)},
        logging={"access": {"enabled": False}},
        # For BentoML, a variable without a value is one that the operator must set.
        envs=[{"name": name, "value": value} for name, value in environment.items() if value],
    )(service_class)

    async def items(websocket: WebSocket) -> None:
        await bentoml.get_current_service().process.serve(websocket)

    service.mount_asgi_app(Starlette(routes=[WebSocketRoute(ITEMS_PATH, items)]), path="/")
    return service


def _resources(settings: ModelSettings) -> dict[str, float]:
    """Return the resources of one runner in BentoML's units: cores, GiB, GPUs."""
    memory = settings.memory_limit / 2**30 if settings.memory_limit else None
    # Without a GPU count, BentoML does not override the GPUs that the operator chose.
    gpus = settings.gpus if settings.cuda_visible_devices is None else None
    resources = {"cpu": settings.cpus, "memory": memory, "gpu": gpus}
    return {name: amount for name, amount in resources.items() if amount}
