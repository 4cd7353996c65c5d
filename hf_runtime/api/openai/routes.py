"""Routes of OpenAI's API, under `/openai/v1` and, those that compute, under `/v1`."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.error_response import make_exception_handlers
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.http.streaming_body import StreamingBody
from hf_runtime.api.inference import Models, infer, render_answers
from hf_runtime.api.openai.chat import ChatDeltas, ChatRequest
from hf_runtime.api.openai.completions import CompletionDeltas, CompletionRequest
from hf_runtime.api.openai.embeddings import EmbeddingRequest
from hf_runtime.api.openai.errors import describe_openai_error
from hf_runtime.api.openai.models import describe_model, list_models
from hf_runtime.api.openai.schema import OpenAIRequest, name_ignored_fields, parse_request
from hf_runtime.api.openai.stream import Deltas, EventStream
from hf_runtime.api.streaming import AnswerStreams
from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.rpc.model_client import ModelClient
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

    def find_client(call: CallContext, parsed: OpenAIRequest) -> ModelClient:
        task = models.get_task(parsed.model)
        if task is not None and task not in parsed.tasks:
            needed = " or ".join(parsed.tasks)
            raise InvalidRequest(f"{parsed.model} does {task}, this needs a model that does {needed}", field="model")
        return models.get_ready_client(parsed.model, call)

    async def answer(request: Request, parsed: ChatRequest | CompletionRequest | EmbeddingRequest) -> Response:
        call = make_call_context(request, settings)
        client = find_client(call, parsed)
        try:
            answers = await infer(call, client, parsed.items, locate=parsed.locate, settings=settings)
            headers = name_ignored_fields(parsed)
            return render_answers(
                answers, lambda some: json_response(parsed.render(some), headers=headers), parsed.locate
            )
        except ServingError as error:
            raise parsed.translate_error(error) from None

    async def stream(request: Request, parsed: ChatRequest | CompletionRequest, deltas: Deltas) -> Response:
        call = make_call_context(request, settings)
        client = find_client(call, parsed)
        try:
            streams = await AnswerStreams.start(call, client, parsed.items, locate=parsed.locate, settings=settings)
        except ServingError as error:
            raise parsed.translate_error(error) from None
        events = EventStream(parsed, parsed.make_empty_chunk(), deltas)
        response = StreamingBody(streams, events.render, "text/event-stream", events.end)
        response.headers.update(name_ignored_fields(parsed))
        return response

    async def completions(request: Request) -> Response:
        parsed = parse_request(CompletionRequest, await read_body(request, settings), settings)
        if parsed.stream:
            return await stream(request, parsed, CompletionDeltas())
        return await answer(request, parsed)

    async def chat_completions(request: Request) -> Response:
        parsed = parse_request(ChatRequest, await read_body(request, settings), settings)
        if parsed.stream:
            return await stream(request, parsed, ChatDeltas(parsed))
        return await answer(request, parsed)

    async def embeddings(request: Request) -> Response:
        parsed = parse_request(EmbeddingRequest, await read_body(request, settings), settings)
        return await answer(request, parsed)

    return [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]
