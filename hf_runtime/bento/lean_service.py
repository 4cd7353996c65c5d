"""A BentoML service without those of BentoML's layers that cost much, and with as many runners as it is told of."""

from __future__ import annotations

from typing import Any, ClassVar

import bentoml


class LeanService(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML has no types there
    """Leaves out layers around the application, by the names of their classes.

    BentoML's spans go nowhere unless its own configuration says so, and are made all the same: for each request, and
    for each message on a WebSocket. What it counts of requests, `observability.request_metrics` does; without its
    metrics as a whole there would be no `/metrics`.
    """

    left_out: ClassVar[frozenset[str]] = frozenset({"OpenTelemetryMiddleware", "RunnerTrafficMetricsMiddleware"})

    def on_load_bento(self, bento: Any) -> None:
        """Take note of the Bento, which may know of fewer runners: it is built before its models are.

        BentoML looks every service up in it, and ends where one is missing.
        """
        for service in self.all_services().values():
            service.bento = bento

    def to_asgi(self, is_main: bool = True) -> Any:
        """The application."""
        app: Any = super().to_asgi(is_main)
        app.user_middleware = [layer for layer in app.user_middleware if layer.cls.__name__ not in self.left_out]
        return app
