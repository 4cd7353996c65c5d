"""Routes of `responses`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.protocol_routes import make_post_routes
from hf_runtime.api.inference import Models
from hf_runtime.api.openai.calls import ModelCalls
from hf_runtime.api.openai.responses import RESPONSES_PATHS, ResponseRequest
from hf_runtime.api.openai.responses_output import ResponseEvents
from hf_runtime.api.openai.schema import parse_request
from hf_runtime.settings import ServerSettings


def make_routes(models: Models, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes."""
    calls = ModelCalls(models, settings)

    async def responses(request: Request) -> Response:
        parsed = parse_request(ResponseRequest, await read_body(request, settings), settings)
        if parsed.stream:
            return await calls.stream(request, parsed, lambda: ResponseEvents(parsed))
        return await calls.answer(request, parsed, lambda answers: ResponseEvents(parsed).render_whole(answers[0][0]))

    return [*make_post_routes(RESPONSES_PATHS, responses)]
