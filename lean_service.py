"""A BentoML service without those of BentoML's layers that cost much and serve nobody here."""

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

    def to_asgi(self, is_main: bool = True) -> Any:
        """The application."""
        app: Any = super().to_asgi(is_main)
        app.user_middleware = [layer for layer in app.user_middleware if layer.cls.__name__ not in self.left_out]
        return app
