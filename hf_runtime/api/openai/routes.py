"""The application under `/openai`, in which every answer has OpenAI's shape, errors of all kinds included."""

from __future__ import annotations

import logging
from http import HTTPStatus
from time import time
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from hf_runtime.api.call import CallContext, ClientLeft
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import http_call
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.http.streaming_body import StreamingBody
from hf_runtime.api.inference import Models, infer, write
from hf_runtime.api.openai.chat import ChatDeltas, ChatRequest
from hf_runtime.api.openai.completions import CompletionDeltas, CompletionRequest
from hf_runtime.api.openai.embeddings import EmbeddingRequest
from hf_runtime.api.openai.errors import error_response, in_clients_terms
from hf_runtime.api.openai.schema import OpenAIRequest, read
from hf_runtime.api.openai.stream import Deltas, EventStream
from hf_runtime.api.streaming import AnswerStreams
from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, MethodNotAllowed, RouteNotFound, ServingError
from hf_runtime.observability.requests import record_of
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings

logger = logging.getLogger(__name__)


def openai_app(models: Models, settings: ServerSettings) -> Starlette:
    """The application to mount at `/openai`."""
    started = int(time())

    def model_object(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "hugging-face-runtime"}

    def client_for(call: CallContext, asked: OpenAIRequest) -> ModelClient:
        task = models.task(asked.model)
        if task is not None and task not in asked.tasks:
            needed = " or ".join(asked.tasks)
            raise InvalidRequest(f"{asked.model} does {task}, this needs a model that does {needed}", field="model")
        return models.get(asked.model, call)

    async def answer(request: Request, asked: ChatRequest | CompletionRequest | EmbeddingRequest) -> Response:
        call = http_call(request, settings)
        client = client_for(call, asked)
        try:
            answers = await infer(call, client, asked.items, place=asked.place, settings=settings)
            return write(answers, lambda some: json_response(asked.response(some)), asked.place)
        except ServingError as error:
            raise in_clients_terms(error, type(asked).model_fields, asked.names) from None

    async def stream(request: Request, asked: ChatRequest | CompletionRequest, deltas: Deltas) -> Response:
        call = http_call(request, settings)
        client = client_for(call, asked)
        try:
            streams = await AnswerStreams.start(call, client, asked.items, place=asked.place, settings=settings)
        except ServingError as error:
            raise in_clients_terms(error, type(asked).model_fields, asked.names) from None
        events = EventStream(asked, asked.opening(), deltas)
        return StreamingBody(streams, events.render, "text/event-stream", events.end)

    async def completions(request: Request) -> Response:
        asked = read(CompletionRequest, await read_body(request, settings), settings.max_instances)
        if asked.stream:
            return await stream(request, asked, CompletionDeltas())
        return await answer(request, asked)

    async def chat_completions(request: Request) -> Response:
        asked = read(ChatRequest, await read_body(request, settings), settings.max_instances)
        if asked.stream:
            return await stream(request, asked, ChatDeltas())
        return await answer(request, asked)

    async def embeddings(request: Request) -> Response:
        asked = read(EmbeddingRequest, await read_body(request, settings), settings.max_instances)
        return await answer(request, asked)

    async def list_models(_: Request) -> Response:
        return json_response({"object": "list", "data": [model_object(name) for name in models.names]})

    async def retrieve_model(request: Request) -> Response:
        return json_response(model_object(models.get(request.path_params["name"], http_call(request, settings)).name))

    return Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/models", list_models),
            # Names of models elsewhere have slashes; asked for here, they are unknown models, not unknown routes.
            Route("/v1/models/{name:path}", retrieve_model),
        ],
        exception_handlers={
            ServingError: _serving_error,
            HTTPException: _http_exception,
            ClientDisconnect: _client_gone,
            ClientLeft: _client_gone,
            Exception: _bug,
        },
    )


def _error_response(request: Request, error: ServingError) -> Response:
    record_of(request.scope).error = error.code
    return error_response(error)


async def _serving_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    return _error_response(request, error)


async def _http_exception(request: Request, error: Exception) -> Response:
    """What the router raises."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _error_response(request, MethodNotAllowed(f"{path} does not take {request.method}"))
    return _error_response(request, RouteNotFound(f"{path} is not a route of this server"))


async def _client_gone(_: Request, __: Exception) -> Response:
    # nginx's status for it; nobody reads this, the access log does.
    return Response(status_code=499)


async def _bug(request: Request, error: Exception) -> Response:
    logger.error("%s failed", request.url.path, exc_info=error)
    return _error_response(request, InferenceFailed("the server failed; its log has the details"))
