"""The routes of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import http_call
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.http.streaming_body import StreamingBody
from hf_runtime.api.inference import Models, infer, write
from hf_runtime.api.open_inference_v2.answers import check_outputs, to_tensors
from hf_runtime.api.open_inference_v2.generate import GenerateRequest, in_clients_terms
from hf_runtime.api.open_inference_v2.instances import place, to_instances
from hf_runtime.api.open_inference_v2.metadata import model_metadata, server_metadata
from hf_runtime.api.open_inference_v2.request import HEADER_LENGTH, parse
from hf_runtime.api.open_inference_v2.response import render
from hf_runtime.api.open_inference_v2.schema import read
from hf_runtime.api.streaming import AnswerStreams
from hf_runtime.contract.errors import InvalidRequest, ModelNotReady, NotSupported, RequestTooLarge, ServingError
from hf_runtime.contract.signature import Signature
from hf_runtime.contract.tasks import GENERATIVE_TASKS
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings


def routes(models: Models, settings: ServerSettings) -> list[Route]:
    """The routes under `/v2`."""

    async def server(_: Request) -> Response:
        return json_response(server_metadata())

    async def live(_: Request) -> Response:
        return json_response({"live": True})

    async def ready(_: Request) -> Response:
        models.check_all_ready()
        return json_response({"ready": True})

    async def list_models(_: Request) -> Response:
        return json_response({"models": models.names})

    async def metadata(request: Request) -> Response:
        client = models.client(request.path_params["name"], http_call(request, settings))
        return json_response(model_metadata(client.name, _signature(client)))

    async def model_ready(request: Request) -> Response:
        client = models.get(request.path_params["name"], http_call(request, settings))
        return json_response({"name": client.name, "ready": True})

    async def version(request: Request) -> Response:
        models.client(request.path_params["name"], http_call(request, settings))
        raise NotSupported("Model versioning not supported yet.")

    async def infer_tensors(request: Request) -> Response:
        call = http_call(request, settings)
        client = models.get(request.path_params["name"], call)
        signature = _signature(client)
        asked = parse(await read_body(request, settings), request.headers.get(HEADER_LENGTH))
        if "stream" in asked.parameters:
            raise InvalidRequest(
                "tensors are answered whole; generate_stream answers in pieces", field="parameters.stream"
            )
        if asked.outputs is not None:
            check_outputs(asked.outputs, signature)
        if (count := len(asked.inputs[0].values)) > settings.max_instances:
            raise RequestTooLarge(
                f"{count} instances given, {settings.max_instances} allowed (MAX_INSTANCES)", field="inputs"
            )
        items = [(instance, asked.parameters) for instance in to_instances(asked.inputs, signature)]

        def response(answers: Sequence[Any]) -> Response:
            return render(client.name, asked, to_tensors(answers, signature, asked.outputs))

        where = partial(place, asked.inputs)
        return write(await infer(call, client, items, place=where, settings=settings), response, where)

    async def generate(request: Request) -> Response:
        call = http_call(request, settings)
        client = _generator(request.path_params["name"], call)
        asked = read(GenerateRequest, await read_body(request, settings))
        try:
            answers = await infer(call, client, [asked.item(stream=False)], place=asked.place, settings=settings)
            return write(answers, lambda one: json_response(asked.response(client.name, one[0])), asked.place)
        except ServingError as error:
            raise in_clients_terms(error) from None

    async def generate_stream(request: Request) -> Response:
        call = http_call(request, settings)
        client = _generator(request.path_params["name"], call)
        asked = read(GenerateRequest, await read_body(request, settings))
        try:
            streams = await AnswerStreams.start(
                call, client, [asked.item(stream=True)], place=asked.place, settings=settings
            )
        except ServingError as error:
            raise in_clients_terms(error) from None
        return StreamingBody(streams, partial(asked.events, client.name), "text/event-stream")

    def _generator(name: str, call: CallContext) -> ModelClient:
        client = models.get(name, call)
        if models.task(name) not in GENERATIVE_TASKS:
            what = models.task(name) or "a pipeline of its own"
            raise InvalidRequest(
                f"{name} does {what}: generate needs a model that does {' or '.join(GENERATIVE_TASKS)}"
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


def _signature(client: ModelClient) -> Signature:
    """The tensors of a model.

    Raises:
        ModelNotReady: it has not told them yet.
    """
    if client.signature is None:
        raise ModelNotReady(f"Model with name {client.name} is not ready.", retry_after=5)
    return client.signature
