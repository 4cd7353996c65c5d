"""BentoML services: runners of the configured models, and the entry service for clients."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml.images import Image
from starlette.middleware import Middleware
from starlette.routing import Route

from hf_runtime.api.http.api_keys import KeyRing
from hf_runtime.api.http.authentication import Authentication
from hf_runtime.api.http.paths import PathNormalization
from hf_runtime.bento.arguments import Arguments, image, read_arguments
from hf_runtime.bento.http_server import install_http_protocol
from hf_runtime.bento.lean_service import LeanService
from hf_runtime.bento.metrics_directory import use_private_metrics_directory
from hf_runtime.bento.supervisor import supervise
from hf_runtime.contract.errors import LoadError
from hf_runtime.observability.setup import configure_logging
from hf_runtime.settings import ModelSettings, ServerSettings, Settings, SettingsError, ensure_runner_key, load_settings
from runners.models.architecture import resolve_task
from runners.service import create_runner_service
from runners.storage.custom_code import find_allowed_pipeline
from runners.storage.fetch import check_uri
from runners.storage.source import UnreachableError

if TYPE_CHECKING:
    from hf_runtime.api.entry import EntryApp


def _load_configuration() -> tuple[Arguments, Settings]:
    """Load the arguments and the settings, and resolve the task of every model.

    Raises:
        SystemExit: one of them is invalid; the message is one line.
    """
    try:
        use_private_metrics_directory()
        arguments = read_arguments()
        settings = load_settings(arguments.config, arguments.model_uri)
        for model in settings.models:
            check_uri(model)
        if settings.server.exit_on_failure:
            supervise()
        models = tuple(map(_resolve_task, settings.models))
        server = ensure_runner_key(settings.server)
        return arguments, settings.model_copy(update={"models": models, "server": server})
    except (SettingsError, LoadError) as error:
        raise SystemExit(f"Error: {error}") from None


def _resolve_task(model: ModelSettings) -> ModelSettings:
    try:
        return resolve_task(model, own_code=find_allowed_pipeline(model) is not None)
    except UnreachableError:
        # The failure may be temporary: the model's process resolves the task again, and other models are served.
        return model


class _EntryService(LeanService):
    """Entry service, which also removes BentoML's timeout middleware.

    The server sets a deadline for every request and answers in the format of its protocol. BentoML's middleware keeps
    a timer alive for the whole timeout after a request is answered: at 1,000 requests per second, this takes hundreds
    of megabytes.
    """

    left_out = LeanService.left_out | {"TimeoutMiddleware"}
    keys: KeyRing
    settings: Settings
    runners: Mapping[str, Sequence[Any]]
    _entry: EntryApp | None = None

    @property
    def ready(self) -> bool:
        """True once requests are answered."""
        return self._entry is not None and self._entry.ready

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the ASGI application, in which BentoML's routes require a key too."""
        self._mount_entry_app()
        app = super().to_asgi(is_main)
        paths = {route.path for route in app.routes if isinstance(route, Route)}
        # Outside all layers, because BentoML's own routes are guarded by their paths too.
        app.user_middleware.insert(0, Middleware(PathNormalization))
        # A redirect to a path with a slash at its end would come back without it, without end.
        app.router.redirect_slashes = False
        # Inside BentoML's middleware, because a CORS preflight request has no key.
        app.user_middleware.append(
            Middleware(Authentication, keys=self.keys, settings=self.settings.server, only=paths)
        )
        return app

    def schema(self) -> Any:
        """Return the description of the routes that a Bento contains."""
        self._mount_entry_app()
        return super().schema()

    def _mount_entry_app(self) -> None:
        if self._entry is None:
            # Imported here, because all processes import this module, and only one of them needs the protocols.
            from hf_runtime.api.entry import EntryApp

            self._entry = EntryApp(self.settings, self.keys, self.runners, self)
            self.mount_asgi_app(self._entry.app, path="/")


def _create_entry_service(settings: Settings, runners: Mapping[str, Sequence[Any]], image: Image) -> Any:
    server = settings.server
    configure_logging(server, {*server.runner_keys, *(secret for model in settings.models for secret in model.secrets)})
    # Read before any process starts, because the file may be invalid.
    keys = KeyRing(server.keys, server.api_keys_file)

    class Runtime:
        """Entry service: answers all protocols, and sends items to the runners."""

        async def __is_ready__(self) -> bool:
            return bool(service.ready)

        @bentoml.on_deployment
        @staticmethod
        def check_configured() -> None:
            """Exit before any process starts if no model is configured."""
            if not settings.models:
                raise SystemExit(
                    "Error: STORAGE_URI is not set: give a model folder or hf://owner/model, "
                    "or a file of InferenceServices as RUNTIME_CONFIG."
                )

    all_runners = [runner for replicas in runners.values() for runner in replicas]
    dependencies = {f"runner_{number}": bentoml.depends(runner) for number, runner in enumerate(all_runners)}
    members = {"keys": keys, "settings": settings, "runners": runners}
    service = bentoml.service(
        name="HuggingFaceRuntime",
        workers=server.api_workers,
        image=image,
        service_class=type("EntryService", (_EntryService,), members),
        # The server writes its own access log.
        logging={"access": {"enabled": False}},
        http={
            "cors": {
                "enabled": bool(server.origins),
                "access_control_allow_origins": server.origins,
                "access_control_allow_methods": ["GET", "POST", "OPTIONS"],
                "access_control_allow_headers": ["*"],
            }
        },
        # Runners report their state over their connections, and a failed runner must not make the service unready.
        runner_probe={"enabled": False},
    )(type("HuggingFaceRuntime", (Runtime,), {"__doc__": Runtime.__doc__, **dependencies}))
    return service


def _models_or_placeholder(settings: Settings) -> tuple[ModelSettings, ...]:
    """Return the models, or a placeholder if there is none.

    A Bento is built before its model is known, and must contain the service of its runner.
    """
    return settings.models or (ModelSettings(storage_uri="/model", task="text-generation"),)


def _create_runners(
    models: tuple[ModelSettings, ...], server: ServerSettings, stored_model: str | None
) -> dict[str, list[Any]]:
    """Create one service for each replica of each model."""
    numbers = itertools.count(1)
    return {
        model.name: [create_runner_service(model, next(numbers), server, stored_model) for _ in range(model.replicas)]
        for model in models
    }


install_http_protocol()
_ARGUMENTS, _SETTINGS = _load_configuration()
_RUNNERS = _create_runners(_models_or_placeholder(_SETTINGS), _SETTINGS.server, _ARGUMENTS.model)

HuggingFaceRuntime = _create_entry_service(_SETTINGS, _RUNNERS, image(_ARGUMENTS.torch))

#: Runner of the first model, to serve it alone for BentoML clients: `bentoml serve service:Runner`.
Runner = next(iter(_RUNNERS.values()))[0]
