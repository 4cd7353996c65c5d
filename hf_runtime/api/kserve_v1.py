"""KServe's V1 data plane.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from hf_runtime.api.cloud_events import read_event, render_event
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import http_call
from hf_runtime.api.http.json_body import encode, json_response, read_object
from hf_runtime.api.http.streaming_body import StreamingBody
from hf_runtime.api.inference import Models, infer, write
from hf_runtime.api.streaming import AnswerStreams, Chunk
from hf_runtime.contract.errors import DeadlineExceeded, InvalidRequest, NotSupported, RequestTooLarge, ServingError
from hf_runtime.settings import ServerSettings


class _ModelName(Convertor[str]):
    """A path segment up to the colon of a verb, so that `/v1/models/x:predict` is never a model named `x:predict`."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model", _ModelName())


class PredictRequest(NamedTuple):
    """A `:predict` body: its instances, under the name the client gave the list, and their common parameters.

    `stream` is one of the parameters on the wire, but concerns the form of the answer, not the model.
    """

    field: str
    instances: list[Any]
    parameters: dict[str, Any]
    stream: bool

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        """The instances, each with the parameters of all."""
        return [(instance, self.parameters) for instance in self.instances]

    def place(self, index: int) -> str:
        """What the client calls an instance."""
        return f"{self.field}[{index}]"


def parse(body: bytes, max_instances: int) -> PredictRequest:
    """Read a `:predict` body; raises as `parse_object`."""
    return parse_object(read_object(body), max_instances)


def parse_object(document: dict[str, Any], max_instances: int) -> PredictRequest:
    """Read the object in a `:predict` body, or in an event.

    Raises:
        InvalidRequest: names the field that is missing or wrong.
        RequestTooLarge: more instances than allowed.
    """
    field = "instances" if "instances" in document or "inputs" not in document else "inputs"
    for name in document:
        if name not in (field, "parameters"):
            raise InvalidRequest("unknown field, a request has instances and, optionally, parameters", field=name)
    if field not in document:
        raise InvalidRequest("field required, a list of what the model shall answer", field="instances")
    instances = document[field]
    if not isinstance(instances, list):
        raise InvalidRequest("must be a list", field=field)
    if not instances:
        raise InvalidRequest("must hold at least one instance", field=field)
    if len(instances) > max_instances:
        raise RequestTooLarge(f"{len(instances)} given, {max_instances} allowed (MAX_INSTANCES)", field=field)
    parameters = document.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise InvalidRequest("must be an object", field="parameters")
    stream = parameters.pop("stream", False)
    if not isinstance(stream, bool):
        raise InvalidRequest("must be true or false", field="parameters.stream")
    return PredictRequest(field, instances, parameters, stream)


def render_lines(chunks: Sequence[Chunk]) -> bytes:
    """Newline-delimited JSON, one object a chunk."""
    return b"".join(encode(_line(chunk.index, chunk.delta)) + b"\n" for chunk in chunks if chunk.delta is not None)


def render_events(chunks: Sequence[Chunk]) -> bytes:
    """The same objects as server-sent events."""
    return b"".join(
        b"data: " + encode(_line(chunk.index, chunk.delta)) + b"\n\n" for chunk in chunks if chunk.delta is not None
    )


def _line(index: int, delta: Mapping[str, Any] | ServingError) -> dict[str, Any]:
    match delta:
        case DeadlineExceeded():
            return {"index": index, "generated_text": "", "finish_reason": "cancelled", "error": delta.message}
        case ServingError():
            return {"index": index, "generated_text": "", "finish_reason": "error", "error": delta.message}
        case _:
            return {"index": index, **delta}


def routes(models: Models, settings: ServerSettings) -> list[Route]:
    """The routes of the protocol."""

    async def alive(request: Request) -> Response:
        # Browsers ask for HTML, clients and probes do not.
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("docs")
        return json_response({"status": "alive"})

    async def list_models(_: Request) -> Response:
        return json_response({"models": models.names})

    async def model_status(request: Request) -> Response:
        client = models.get(request.path_params["name"], http_call(request, settings))
        return json_response({"name": client.name, "ready": True})

    async def predict(request: Request) -> Response:
        call = http_call(request, settings)
        client = models.get(request.path_params["name"], call)
        body = await read_body(request, settings)
        event = read_event(request.headers, body)
        limit = settings.max_instances
        asked = parse(body, limit) if event is None else parse_object(event.data, limit)
        if asked.stream:
            if event is not None:
                raise InvalidRequest("an event is answered by one event, which is whole", field="parameters.stream")
            streams = await AnswerStreams.start(call, client, asked.items, place=asked.place, settings=settings)
            if "text/event-stream" in request.headers.get("accept", ""):
                return StreamingBody(streams, render_events, "text/event-stream")
            return StreamingBody(streams, render_lines, "application/x-ndjson")

        def response(answers: Sequence[Any]) -> Response:
            answer = {"predictions": answers}
            return json_response(answer) if event is None else render_event(event, client.name, answer, settings)

        answers = await infer(call, client, asked.items, place=asked.place, settings=settings)
        return write(answers, response, asked.place)

    async def explain(request: Request) -> Response:
        models.get(request.path_params["name"], http_call(request, settings))
        raise NotSupported("this server has no explainer")

    return [
        Route("/", alive),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:model}:predict", predict, methods=["POST"]),
        Route("/v1/models/{name:model}:explain", explain, methods=["POST"]),
        Route("/v1/models/{name:model}", model_status),
    ]
