"""Health and version of the server, where clients of vLLM look for them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import TypedDict

from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.inference import Models
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import ModelNotReady
from hf_runtime.version import __version__


@answer_type
class Version(TypedDict):
    """The version of the server."""

    version: str


def make_routes(models: Models) -> list[Route]:
    """Return the routes `/health` and `/version`."""

    async def health(_: Request) -> Response:
        if not models.ready:
            raise ModelNotReady("no model of this server can answer yet, or some are loading", retry_after=5)
        return Response()

    async def version(_: Request) -> Response:
        return json_response(Version(version=__version__))

    return [Route("/health", health), Route("/version", version)]
