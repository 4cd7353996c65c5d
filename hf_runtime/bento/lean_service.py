"""BentoML service without its expensive middleware."""

from __future__ import annotations

from typing import Any, ClassVar

import bentoml


class LeanService(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML has no types there
    """Service that removes some middleware of BentoML, by the names of their classes.

    BentoML creates spans for each request and each WebSocket message even if they are exported nowhere. Its request
    metrics are replaced by `observability.request_metrics`; its metrics as a whole must stay on, because they provide
    `/metrics`.

    Attributes:
        left_out: class names of the middleware to remove.
    """

    left_out: ClassVar[frozenset[str]] = frozenset({"OpenTelemetryMiddleware", "RunnerTrafficMetricsMiddleware"})

    def on_load_bento(self, bento: Any) -> None:
        """Set the Bento of all services, without checking that it lists them.

        A Bento is built before its models are configured, so it may list fewer runners. BentoML would exit if a service
        is missing.
        """
        for service in self.all_services().values():
            service.bento = bento

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the ASGI application."""
        app: Any = super().to_asgi(is_main)
        app.user_middleware = [layer for layer in app.user_middleware if layer.cls.__name__ not in self.left_out]
        return app
