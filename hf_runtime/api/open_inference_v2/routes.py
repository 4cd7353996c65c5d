"""Routes of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import TypedDict

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.http.streaming_body import StreamingBody
from hf_runtime.api.inference import Models, infer, render_answers
from hf_runtime.api.kserve_v1 import ModelNames, ModelReady
from hf_runtime.api.open_inference_v2.answers import check_outputs, to_tensors
from hf_runtime.api.open_inference_v2.generate import GenerateRequest, translate_error
from hf_runtime.api.open_inference_v2.instances import locate_instance, to_instances
from hf_runtime.api.open_inference_v2.metadata import describe_model, describe_server
from hf_runtime.api.open_inference_v2.request import HEADER_LENGTH, parse_request
from hf_runtime.api.open_inference_v2.response import render_response
from hf_runtime.api.open_inference_v2.schema import parse_document
from hf_runtime.api.streaming import AnswerStreams
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import InvalidRequest, ModelNotReady, NotSupported, RequestTooLarge, ServingError
from hf_runtime.contract.signature import Signature
from hf_runtime.contract.tasks import GENERATIVE_TASKS
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings


@answer_type
class ServerLive(TypedDict):
    """The server takes requests."""

    live: Literal[True]


@answer_type
class ServerReady(TypedDict):
    """Every model can answer."""

    ready: Literal[True]


def make_routes(models: Models, settings: ServerSettings) -> list[Route]:
    """Return the routes under `/v2`."""

    async def server(_: Request) -> Response:
        return json_response(describe_server())

    async def live(_: Request) -> Response:
        return json_response(ServerLive(live=True))

    async def ready(_: Request) -> Response:
        models.check_all_ready()
        return json_response(ServerReady(ready=True))

    async def list_models(_: Request) -> Response:
        return json_response(ModelNames(models=models.names))

    async def metadata(request: Request) -> Response:
        client = models.get_client(request.path_params["name"], make_call_context(request, settings))
        return json_response(describe_model(client.name, _get_signature(client)))

    async def model_ready(request: Request) -> Response:
        client = models.get_ready_client(request.path_params["name"], make_call_context(request, settings))
        return json_response(ModelReady(name=client.name, ready=True))

    async def version(request: Request) -> Response:
        models.get_client(request.path_params["name"], make_call_context(request, settings))
        raise NotSupported("Model versioning not supported yet.")

    async def infer_tensors(request: Request) -> Response:
        call = make_call_context(request, settings)
        client = models.get_ready_client(request.path_params["name"], call)
        signature = _get_signature(client)
        parsed = parse_request(await read_body(request, settings), request.headers.get(HEADER_LENGTH))
        if "stream" in parsed.parameters:
            raise InvalidRequest(
                "tensors are answered whole; generate_stream answers in pieces", field="parameters.stream"
            )
        if parsed.outputs is not None:
            check_outputs(parsed.outputs, signature)
        if (count := len(parsed.inputs[0].values)) > settings.max_instances:
            raise RequestTooLarge(
                f"{count} instances given, {settings.max_instances} allowed (MAX_INSTANCES)", field="inputs"
            )
        items = [(instance, parsed.parameters) for instance in to_instances(parsed.inputs, signature)]

        def render(answers: Sequence[Any]) -> Response:
            return render_response(client.name, parsed, to_tensors(answers, signature, parsed.outputs))

        locate = partial(locate_instance, parsed.inputs)
        return render_answers(await infer(call, client, items, locate=locate, settings=settings), render, locate)

    async def generate(request: Request) -> Response:
        call = make_call_context(request, settings)
        client = _get_generative_client(request.path_params["name"], call)
        parsed = parse_document(GenerateRequest, await read_body(request, settings))
        try:
            answers = await infer(
                call, client, [parsed.make_item(stream=False)], locate=parsed.locate, settings=settings
            )
            return render_answers(answers, lambda one: json_response(parsed.render(client.name, one[0])), parsed.locate)
        except ServingError as error:
            raise translate_error(error) from None

    async def generate_stream(request: Request) -> Response:
        call = make_call_context(request, settings)
        client = _get_generative_client(request.path_params["name"], call)
        parsed = parse_document(GenerateRequest, await read_body(request, settings))
        try:
            streams = await AnswerStreams.start(
                call, client, [parsed.make_item(stream=True)], locate=parsed.locate, settings=settings
            )
        except ServingError as error:
            raise translate_error(error) from None
        return StreamingBody(streams, partial(parsed.render_events, client.name), "text/event-stream")

    def _get_generative_client(name: str, call: CallContext) -> ModelClient:
        client = models.get_ready_client(name, call)
        if models.get_task(name) not in GENERATIVE_TASKS:
            task = models.get_task(name) or "a pipeline of its own"
            raise InvalidRequest(
                f"{name} does {task}: generate needs a model that does {' or '.join(GENERATIVE_TASKS)}"
            )
        return client

    return [
        Route("/v2", server),
        Route("/v2/", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models", list_models),
        Route("/v2/models/{name:model}", metadata),
        Route("/v2/models/{name:model}/ready", model_ready),
        Route("/v2/models/{name:model}/infer", infer_tensors, methods=["POST"]),
        Route("/v2/models/{name:model}/generate", generate, methods=["POST"]),
        Route("/v2/models/{name:model}/generate_stream", generate_stream, methods=["POST"]),
        Route("/v2/models/{name:model}/versions/{version}", version),
        Route("/v2/models/{name:model}/versions/{version}/ready", version),
        *(
            Route(f"/v2/models/{{name:model}}/versions/{{version}}/{verb}", version, methods=["POST"])
            for verb in ("infer", "generate", "generate_stream")
        ),
    ]


def _get_signature(client: ModelClient) -> Signature:
    """Return the signature of a model.

    Raises:
        ModelNotReady: the model has not reported it yet.
    """
    if client.signature is None:
        raise ModelNotReady(f"Model with name {client.name} is not ready.", retry_after=5)
    return client.signature
