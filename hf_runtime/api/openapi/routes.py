"""Routes of the OpenAPI document and of the page to try the routes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from hf_runtime.api.http.json_body import encode
from hf_runtime.api.inference import Models
from hf_runtime.api.openapi.document import make_document
from hf_runtime.settings import ServerSettings

_PAGE = Path(__file__).parent / "docs.html"


def make_routes(models: Models, settings: ServerSettings, described: Sequence[BaseRoute]) -> list[Route]:
    """Return the routes of the document and of the page.

    `/docs.json` replaces BentoML's document, which has only BentoML's own routes.
    """

    # Built on the first request, because every process of the server creates the application, runners too.
    @cache
    def document() -> bytes:
        return encode(make_document(models, settings, described))

    page = _PAGE.read_text(encoding="utf-8")

    async def openapi(_: Request) -> Response:
        return Response(await asyncio.to_thread(document), media_type="application/json")

    async def docs(request: Request) -> Response:
        sent: bytes = request.scope.get("raw_path") or b""
        if slashes := len(sent) - len(sent.rstrip(b"/")):
            # The page refers to its files by relative paths, because a proxy may serve it under another path.
            return RedirectResponse("../" * slashes + "docs")
        return HTMLResponse(page)

    return [
        Route("/openapi.json", openapi, include_in_schema=False),
        Route("/docs.json", openapi, include_in_schema=False),
        Route("/docs", docs, include_in_schema=False),
    ]
