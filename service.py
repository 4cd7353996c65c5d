"""The BentoML services: one runner for each configured model, and the entry service that KServe's clients talk to."""

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
from hf_runtime.bento.arguments import Arguments, given_arguments, image
from hf_runtime.bento.http_server import limit_heads
from hf_runtime.bento.lean_service import LeanService
from hf_runtime.bento.metrics_directory import own_metrics_directory
from hf_runtime.bento.supervisor import supervise
from hf_runtime.contract.errors import LoadError
from hf_runtime.observability.setup import configure_logging
from hf_runtime.settings import ModelSettings, ServerSettings, Settings, SettingsError, load_settings, with_runner_key
from runners.models.architecture import resolve_task
from runners.service import runner_service
from runners.storage.custom_code import allowed_pipeline
from runners.storage.fetch import check_uri
from runners.storage.source import UnreachableError

if TYPE_CHECKING:
    from hf_runtime.api.entry import EntryApp


def _configured() -> tuple[Arguments, Settings]:
    """The arguments and the settings, with every model's task known; a wrong one stops the start with one line."""
    try:
        own_metrics_directory()
        arguments = given_arguments()
        settings = load_settings(arguments.config, arguments.model_uri)
        for model in settings.models:
            check_uri(model)
        if settings.server.exit_on_failure:
            supervise()
        models = tuple(map(_with_task, settings.models))
        server = with_runner_key(settings.server)
        return arguments, settings.model_copy(update={"models": models, "server": server})
    except (SettingsError, LoadError) as error:
        raise SystemExit(f"Error: {error}") from None


def _with_task(model: ModelSettings) -> ModelSettings:
    try:
        return resolve_task(model, own_code=allowed_pipeline(model) is not None)
    except UnreachableError:
        # For a reason that may pass: the model's own process asks again, and others are served meanwhile.
        return model


class _EntryService(LeanService):
    """Without BentoML's time-out, too.

    Every request has a deadline of our own, answered in the shape of its protocol. BentoML's keeps a timer alive for
    the whole time-out after a request is answered: at 1,000 requests a second, hundreds of megabytes.
    """

    left_out = LeanService.left_out | {"TimeoutMiddleware"}
    keys: KeyRing
    settings: Settings
    runners: Mapping[str, Sequence[Any]]
    _entry: EntryApp | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._entry is not None and self._entry.ready

    def to_asgi(self, is_main: bool = True) -> Any:
        """The application, in which BentoML's own routes need a key like ours."""
        self._mount()
        app = super().to_asgi(is_main)
        own = {route.path for route in app.routes if isinstance(route, Route)}
        # Within BentoML's layers: a browser asks whether it may ask without a key.
        app.user_middleware.append(Middleware(Authentication, keys=self.keys, settings=self.settings.server, only=own))
        return app

    def schema(self) -> Any:
        """What a Bento says of its routes."""
        self._mount()
        return super().schema()

    def _mount(self) -> None:
        if self._entry is None:
            # Imported here: this module is loaded by all processes, and the protocols are of use to one of them.
            from hf_runtime.api.entry import EntryApp

            self._entry = EntryApp(self.settings, self.keys, self.runners, self)
            self.mount_asgi_app(self._entry.app, path="/")


def _entry_service(settings: Settings, runners: Mapping[str, Sequence[Any]], image: Image) -> Any:
    server = settings.server
    configure_logging(server, {*server.runner_keys, *(secret for model in settings.models for secret in model.secrets)})
    # Here, before any process: their file may be wrong.
    keys = KeyRing(server.keys, server.api_keys_file)

    class Runtime:
        """Answers the protocols; computes nothing itself."""

        async def __is_ready__(self) -> bool:
            return bool(service.ready)

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
    members = {"keys": keys, "settings": settings, "runners": runners}
    service = bentoml.service(
        name="HuggingFaceRuntime",
        workers=server.api_workers,
        image=image,
        service_class=type("EntryService", (_EntryService,), members),
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
    )(type("HuggingFaceRuntime", (Runtime,), {"__doc__": Runtime.__doc__, **dependencies}))
    return service


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
