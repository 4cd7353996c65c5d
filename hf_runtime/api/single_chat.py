"""Base of the protocols whose request is one chat with one answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from starlette.requests import Request
from starlette.responses import Response

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.http.streaming_body import StreamingBody
from hf_runtime.api.inference import Models, infer, render_answers
from hf_runtime.api.openai.schema import OpenAIRequest, name_ignored_fields
from hf_runtime.api.streaming import AnswerStreams, Chunk
from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.contract.validation import StrictModel, allow_null, make_invalid_request
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings, Task

#: Path of a tool in the chat that the runner reads, up to its function.
_TOOL = re.compile(r"tools\[(\d+)\]\.function\b")


class NullableModel(StrictModel):
    """Base of objects within a request, in which a field that is null counts as missing."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        allow_null(schema)
        return schema


class TolerantModel(NullableModel):
    """Base of objects whose unknown fields change nothing: hints, and parts of earlier answers."""

    model_config = ConfigDict(extra="ignore")


class SingleChatRequest(OpenAIRequest):
    """A chat with one answer, whole or as a stream."""

    tasks: ClassVar[tuple[Task, ...]] = ("text-generation",)
    #: Fields of the request for those of the runner's chat and parameters, as beginnings of paths.
    chat_fields: ClassVar[Mapping[str, str]]

    stream: bool = False
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)

    @property
    def item_count(self) -> tuple[str, int]:
        return "model", 1

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        return [(self.make_chat(), self.make_parameters())]

    def make_chat(self) -> dict[str, Any]:
        """Return the chat that the runner answers."""
        raise NotImplementedError

    def make_parameters(self) -> dict[str, Any]:
        """Return the runner's parameters."""
        raise NotImplementedError

    def find_tool(self, number: int) -> int:
        """Return the index in the request of a tool of the runner's chat."""
        return number

    def translate_tool_field(self, field: str) -> str:
        """Return the request's field for one of a tool, such as `tools[0].parameters`."""
        return field

    def translate_error(self, error: ServingError) -> ServingError:
        if error.field is not None:
            error = error.with_field(self._translate_field(error.field))
        return super().translate_error(error)

    def _translate_field(self, field: str) -> str:
        if _TOOL.match(field):
            return self.translate_tool_field(_TOOL.sub(lambda found: f"tools[{self.find_tool(int(found[1]))}]", field))
        for ours, theirs in self.chat_fields.items():
            if field == ours or field.startswith((f"{ours}.", f"{ours}[")):
                return theirs + field[len(ours) :]
        # The runner's turns are not the client's, so their numbers would mislead.
        return self.locate(0) if field.startswith("messages") else field


def make_sampling(temperature: float, top_p: float, top_k: int = 0) -> dict[str, Any]:
    """Return the runner's parameters of sampling.

    All are sent, because the operator's defaults are not those of the protocol.
    """
    if not temperature or not top_p:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}


ObjectT = TypeVar("ObjectT", bound=StrictModel)


def parse_object(kind: type[ObjectT], value: Any, path: str) -> ObjectT:
    """Return an object of the request; a field that is null counts as missing.

    Raises:
        InvalidRequest: it is no object, or a field is wrong; the error has the field's path.
    """
    if not isinstance(value, dict):
        raise InvalidRequest("must be an object", field=path)
    try:
        return kind.model_validate({name: field for name, field in value.items() if field is not None})
    except ValidationError as error:
        raise make_invalid_request(error, path, show_input=True) from None


def parse_typed(
    kinds: Mapping[str, type[StrictModel]], value: Any, path: str, *, default: str | None = None
) -> StrictModel:
    """Return an object whose `type` determines its class.

    Args:
        default: type of an object without one.

    Raises:
        InvalidRequest: the type is unknown, or as `parse_object`.
    """
    if not isinstance(value, dict):
        raise InvalidRequest("must be an object", field=path)
    name = value.get("type")
    if name is None:
        name = default
    if name is None:
        raise InvalidRequest("field required", field=f"{path}.type")
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InvalidRequest(f"{name!r:.60} is not supported, {', '.join(kinds)} are", field=f"{path}.type")
    return parse_object(kind, value, path)


class ChatEvents(Protocol):
    """Renderer of the events of one answer's stream."""

    def render(self, chunks: Sequence[Chunk]) -> bytes:
        """Return the events for chunks that arrived together."""

    def end(self) -> bytes:
        """Return the last events."""


class ChatCalls:
    """Calls of the models with one chat each."""

    def __init__(self, models: Models, settings: ServerSettings) -> None:
        self._models, self._settings = models, settings

    def find_client(self, call: CallContext, parsed: OpenAIRequest) -> ModelClient:
        """Return the client of the requested model.

        Raises:
            InvalidRequest: the model does another task.
            ModelNotFound, ModelNotReady: as `Models.get_ready_client`.
        """
        task = self._models.get_task(parsed.model)
        if task is not None and task not in parsed.tasks:
            needed = " or ".join(parsed.tasks)
            raise InvalidRequest(f"{parsed.model} does {task}, this needs a model that does {needed}", field="model")
        return self._models.get_ready_client(parsed.model, call)

    async def answer(
        self, request: Request, parsed: SingleChatRequest, render: Callable[[Mapping[str, Any]], Any]
    ) -> Response:
        """Return the whole answer.

        Args:
            render: makes the body from the runner's answer.
        """
        call = make_call_context(request, self._settings)
        client = self.find_client(call, parsed)
        try:
            answers = await infer(call, client, parsed.items, locate=parsed.locate, settings=self._settings)
            headers = name_ignored_fields(parsed)
            return render_answers(
                answers, lambda found: json_response(render(found[0][0]), headers=headers), parsed.locate
            )
        except ServingError as error:
            raise parsed.translate_error(error) from None

    async def stream(self, request: Request, parsed: SingleChatRequest, events: ChatEvents) -> Response:
        """Return the answer as a stream of events."""
        call = make_call_context(request, self._settings)
        client = self.find_client(call, parsed)
        try:
            streams = await AnswerStreams.start(
                call, client, parsed.items, locate=parsed.locate, settings=self._settings
            )
        except ServingError as error:
            raise parsed.translate_error(error) from None
        response = StreamingBody(streams, events.render, "text/event-stream", events.end)
        response.headers.update(name_ignored_fields(parsed))
        return response
