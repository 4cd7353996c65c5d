"""KServe's V1 data plane.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from hf_runtime.api.cloud_events import read_event, render_event
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.json_body import encode, encode_event, json_response, read_object
from hf_runtime.api.http.streaming_body import StreamingBody
from hf_runtime.api.inference import Models, infer, render_answers
from hf_runtime.api.openai.models import ModelList, ModelObject, describe_model
from hf_runtime.api.openai.models import list_models as list_model_objects
from hf_runtime.api.streaming import AnswerStreams, Chunk
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import DeadlineExceeded, InvalidRequest, NotSupported, RequestTooLarge, ServingError
from hf_runtime.settings import ServerSettings


class _ModelName(Convertor[str]):
    """Path segment up to the colon of a verb, so that no model is named `x:predict`."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _ModelNameWithSlashes(_ModelName):
    """Rest of a path up to the colon of a verb.

    Models elsewhere have such names: the error is an unknown model, not an unknown route.
    """

    regex = "[^:]+"


register_url_convertor("model", _ModelName())
register_url_convertor("any_model", _ModelNameWithSlashes())


@answer_type
class Alive(TypedDict):
    """The server takes requests."""

    status: Literal["alive"]


@answer_type
class ModelNames(TypedDict):
    """All models, ready or not."""

    models: list[str]


@answer_type
class ModelReady(TypedDict):
    """A model that can answer."""

    name: str
    ready: Literal[True]


@answer_type
class SharedModelList(ModelNames, ModelList):
    """All models, ready or not: their names for KServe's clients, `data` for OpenAI's."""


@answer_type
class SharedModel(ModelReady, ModelObject):
    """A model that can answer, as KServe's and OpenAI's clients read it."""


class PredictRequest(NamedTuple):
    """A `:predict` body: instances, the name of their list, and common parameters.

    Clients send `stream` as one of the parameters, but it is not a parameter of the model.
    """

    field: str
    instances: list[Any]
    parameters: dict[str, Any]
    stream: bool

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        """Items for the model's runner: instances, each with the parameters."""
        return [(instance, self.parameters) for instance in self.instances]

    def locate(self, index: int) -> str:
        """Return the path of an instance in the request."""
        return f"{self.field}[{index}]"


def parse(body: bytes, max_instances: int) -> PredictRequest:
    """Return the request in a `:predict` body; raise the errors of `parse_object`."""
    return parse_object(read_object(body), max_instances)


def parse_object(document: dict[str, Any], max_instances: int) -> PredictRequest:
    """Return the request of an object, which is a `:predict` body or the data of an event.

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
    """Return newline-delimited JSON, one object per chunk."""
    return b"".join(
        encode(_render_chunk(chunk.index, chunk.delta)) + b"\n" for chunk in chunks if chunk.delta is not None
    )


def render_events(chunks: Sequence[Chunk]) -> bytes:
    """Return the same objects as server-sent events."""
    return b"".join(
        encode_event(_render_chunk(chunk.index, chunk.delta)) for chunk in chunks if chunk.delta is not None
    )


def _render_chunk(index: int, delta: Mapping[str, Any] | ServingError) -> dict[str, Any]:
    match delta:
        case DeadlineExceeded():
            return {"index": index, "generated_text": "", "finish_reason": "cancelled", "error": delta.message}
        case ServingError():
            return {"index": index, "generated_text": "", "finish_reason": "error", "error": delta.message}
        case _:
            return {"index": index, **delta}


def make_routes(models: Models, settings: ServerSettings) -> list[Route]:
    """Return the routes of the protocol."""

    async def alive(request: Request) -> Response:
        # Only browsers accept HTML; clients and probes do not.
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("docs")
        return json_response(Alive(status="alive"))

    async def list_models(_: Request) -> Response:
        return json_response(SharedModelList(models=models.names, **list_model_objects(models)))

    async def model_status(request: Request) -> Response:
        client = models.get_ready_client(request.path_params["name"], make_call_context(request, settings))
        return json_response(SharedModel(name=client.name, ready=True, **describe_model(models, client.name)))

    async def predict(request: Request) -> Response:
        call = make_call_context(request, settings)
        client = models.get_ready_client(request.path_params["name"], call)
        body = await read_body(request, settings)
        event = read_event(request.headers, body)
        limit = settings.max_instances
        parsed = parse(body, limit) if event is None else parse_object(event.data, limit)
        if parsed.stream:
            if event is not None:
                raise InvalidRequest("an event is answered by one event, which is whole", field="parameters.stream")
            streams = await AnswerStreams.start(call, client, parsed.items, locate=parsed.locate, settings=settings)
            if "text/event-stream" in request.headers.get("accept", ""):
                return StreamingBody(streams, render_events, "text/event-stream")
            return StreamingBody(streams, render_lines, "application/x-ndjson")

        def render(answers: Sequence[Any]) -> Response:
            answer = {"predictions": answers}
            return json_response(answer) if event is None else render_event(event, client.name, answer, settings)

        answers = await infer(call, client, parsed.items, locate=parsed.locate, settings=settings)
        return render_answers(answers, render, parsed.locate)

    async def explain(request: Request) -> Response:
        models.get_ready_client(request.path_params["name"], make_call_context(request, settings))
        raise NotSupported("this server has no explainer")

    return [
        Route("/", alive),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:model}:predict", predict, methods=["POST"]),
        Route("/v1/models/{name:model}:explain", explain, methods=["POST"]),
        Route("/v1/models/{name:any_model}", model_status),
    ]
