"""Routes of OpenAI's API, under `/openai/v1` and, those that compute, under `/v1`."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.error_response import make_exception_handlers
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.inference import Models
from hf_runtime.api.openai.calls import ModelCalls
from hf_runtime.api.openai.chat import ChatDeltas, ChatRequest
from hf_runtime.api.openai.completions import CompletionDeltas, CompletionRequest
from hf_runtime.api.openai.embeddings import EmbeddingRequest
from hf_runtime.api.openai.errors import describe_openai_error
from hf_runtime.api.openai.models import describe_model, list_models
from hf_runtime.api.openai.schema import parse_request
from hf_runtime.api.openai.stream import EventStream
from hf_runtime.settings import ServerSettings


def create_openai_app(models: Models, settings: ServerSettings) -> Starlette:
    """Return the application to mount at `/openai`.

    Every answer and error has OpenAI's format.
    """

    async def models_list(_: Request) -> Response:
        return json_response(list_models(models))

    async def retrieve_model(request: Request) -> Response:
        client = models.get_ready_client(request.path_params["name"], make_call_context(request, settings))
        return json_response(describe_model(models, client.name))

    return Starlette(
        routes=[
            *make_computing_routes(models, settings),
            Route("/v1/models", models_list),
            # Accepts slashes, which model names have elsewhere: the error is an unknown model, not an unknown route.
            Route("/v1/models/{name:path}", retrieve_model),
        ],
        exception_handlers=make_exception_handlers(describe_openai_error),
    )


def make_computing_routes(models: Models, settings: ServerSettings) -> list[Route]:
    """Return the routes under `/v1` that compute answers."""

    calls = ModelCalls(models, settings)

    async def completions(request: Request) -> Response:
        parsed = parse_request(CompletionRequest, await read_body(request, settings), settings)
        if parsed.stream:
            return await calls.stream(
                request, parsed, lambda: EventStream(parsed, parsed.make_empty_chunk(), CompletionDeltas())
            )
        return await calls.answer(request, parsed, parsed.render)

    async def chat_completions(request: Request) -> Response:
        parsed = parse_request(ChatRequest, await read_body(request, settings), settings)
        if parsed.stream:
            return await calls.stream(
                request, parsed, lambda: EventStream(parsed, parsed.make_empty_chunk(), ChatDeltas(parsed))
            )
        return await calls.answer(request, parsed, parsed.render)

    async def embeddings(request: Request) -> Response:
        parsed = parse_request(EmbeddingRequest, await read_body(request, settings), settings)
        return await calls.answer(request, parsed, parsed.render)

    return [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]
