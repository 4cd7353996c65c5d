"""KServe's V1 data plane.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from errors import InvalidRequest, NotSupported, RequestTooLarge
from protocols.inference import Models, infer, read_body
from protocols.json_body import json_response, read_object
from settings import ServerSettings


class _ModelName(Convertor[str]):
    """A path segment up to the colon of a verb, so that `/v1/models/x:predict` is never a model named `x:predict`."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model", _ModelName())


class PredictRequest(NamedTuple):
    """A `:predict` body: its instances, under the name the client gave the list, and their common parameters."""

    field: str
    instances: list[Any]
    parameters: dict[str, Any]


def parse(body: bytes, max_instances: int) -> PredictRequest:
    """Read a `:predict` body.

    Raises:
        InvalidRequest: names the field that is missing or wrong.
        RequestTooLarge: more instances than allowed.
    """
    document = read_object(body)
    field = "instances" if "instances" in document or "inputs" not in document else "inputs"
    for name in document:
        if name not in (field, "parameters"):
            raise InvalidRequest(f"{name}: unknown field, a request has instances and, optionally, parameters")
    if field not in document:
        raise InvalidRequest("instances: field required, a list of what the model shall answer")
    instances = document[field]
    if not isinstance(instances, list):
        raise InvalidRequest(f"{field}: must be a list")
    if not instances:
        raise InvalidRequest(f"{field}: must hold at least one instance")
    if len(instances) > max_instances:
        raise RequestTooLarge(f"{field}: {len(instances)} given, {max_instances} allowed (MAX_INSTANCES)")
    parameters = document.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise InvalidRequest("parameters: must be an object")
    return PredictRequest(field, instances, parameters)


def render(predictions: Sequence[Any]) -> Response:
    """The answers, one for each instance, in order."""
    return json_response({"predictions": predictions})


def routes(models: Models, settings: ServerSettings) -> list[Route]:
    """The routes of the protocol."""

    async def alive(_: Request) -> Response:
        return json_response({"status": "alive"})

    async def list_models(_: Request) -> Response:
        return json_response({"models": models.names})

    async def model_status(request: Request) -> Response:
        client = models.get(request.path_params["name"])
        return json_response({"name": client.name, "ready": True})

    async def predict(request: Request) -> Response:
        client = models.get(request.path_params["name"])
        asked = parse(await read_body(request, settings), settings.max_instances)
        return render(
            await infer(request, client, asked.instances, asked.parameters, field=asked.field, settings=settings)
        )

    async def explain(request: Request) -> Response:
        models.get(request.path_params["name"])
        raise NotSupported("this server has no explainer")

    return [
        Route("/", alive),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:model}:predict", predict, methods=["POST"]),
        Route("/v1/models/{name:model}:explain", explain, methods=["POST"]),
        Route("/v1/models/{name:model}", model_status),
    ]
