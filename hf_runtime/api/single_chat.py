"""Base of the protocols whose request is one chat with one answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from hf_runtime.api.openai.schema import OpenAIRequest
from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.contract.validation import TolerantModel, make_invalid_request
from hf_runtime.settings import Task

#: Path of a tool in the chat that the runner reads, up to its function.
_TOOL = re.compile(r"tools\[(\d+)\]\.function\b")


class ExtensibleModel(TolerantModel):
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


ObjectT = TypeVar("ObjectT", bound=TolerantModel)


def parse_object(kind: type[ObjectT], value: Any, path: str) -> ObjectT:
    """Return an object of the request; a field that is null counts as missing.

    Raises:
        InvalidRequest: it is no object, or a field is wrong; the error has the field's path.
    """
    if not isinstance(value, dict):
        raise InvalidRequest("must be an object", field=path)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise make_invalid_request(error, path, show_input=True) from None


def parse_typed(
    kinds: Mapping[str, type[TolerantModel]], value: Any, path: str, *, default: str | None = None
) -> TolerantModel:
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
