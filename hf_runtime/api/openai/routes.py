"""Application under `/openai`, in which every answer and error has OpenAI's format."""

from __future__ import annotations

from time import time
from typing import Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import TypedDict

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
from hf_runtime.api.openai.schema import OpenAIRequest, parse_request
from hf_runtime.api.openai.stream import Deltas, EventStream
from hf_runtime.api.streaming import AnswerStreams
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings


@answer_type
class ModelObject(TypedDict):
    """A model of this server."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


@answer_type
class ModelList(TypedDict):
    """All models, ready or not."""

    object: Literal["list"]
    data: list[ModelObject]


def create_openai_app(models: Models, settings: ServerSettings) -> Starlette:
    """Return the application to mount at `/openai`."""
    started = int(time())

    def describe_model(name: str) -> ModelObject:
        return {"id": name, "object": "model", "created": started, "owned_by": "hugging-face-runtime"}

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
            return render_answers(answers, lambda some: json_response(parsed.render(some)), parsed.locate)
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
        return StreamingBody(streams, events.render, "text/event-stream", events.end)

    async def completions(request: Request) -> Response:
        parsed = parse_request(CompletionRequest, await read_body(request, settings), settings.max_instances)
        if parsed.stream:
            return await stream(request, parsed, CompletionDeltas())
        return await answer(request, parsed)

    async def chat_completions(request: Request) -> Response:
        parsed = parse_request(ChatRequest, await read_body(request, settings), settings.max_instances)
        if parsed.stream:
            return await stream(request, parsed, ChatDeltas(parsed))
        return await answer(request, parsed)

    async def embeddings(request: Request) -> Response:
        parsed = parse_request(EmbeddingRequest, await read_body(request, settings), settings.max_instances)
        return await answer(request, parsed)

    async def list_models(_: Request) -> Response:
        return json_response(ModelList(object="list", data=[describe_model(name) for name in models.names]))

    async def retrieve_model(request: Request) -> Response:
        client = models.get_ready_client(request.path_params["name"], make_call_context(request, settings))
        return json_response(describe_model(client.name))

    return Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/models", list_models),
            # Accepts slashes, which model names have elsewhere: the error is an unknown model, not an unknown route.
            Route("/v1/models/{name:path}", retrieve_model),
        ],
        exception_handlers=make_exception_handlers(describe_openai_error),
    )
