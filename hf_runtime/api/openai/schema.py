"""How every request is read: strictly, with errors that name the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hf_runtime.api.http.json_body import read_object
from hf_runtime.api.openai.errors import FieldError, refused
from hf_runtime.contract.errors import RequestTooLarge
from hf_runtime.settings import Task

#: Documented fields that change nothing here: who asks, what is kept, and hints to models that know of them.
IGNORED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)

#: Documented fields without which the answer would be another.
NOT_OFFERED: Mapping[str, str] = {
    "audio": "answers are text only",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "moderation": "nothing is moderated here",
    "prediction": "predicted outputs are not offered",
    "suffix": "insertion is not offered",
    "web_search_options": "there is no web search",
}


class OpenAIModel(BaseModel):
    """Base of all that a client writes: unknown fields and wrong types are refused, never guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OpenAIRequest(OpenAIModel):
    """A request that a model answers."""

    #: What models can answer it.
    tasks: ClassVar[tuple[Task, ...]]

    model: str

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """With what `read` takes beside the fields: null in place of nothing, and fields that change nothing."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        fields = schema["properties"]
        for name in fields.keys() - set(schema["required"]):
            fields[name] = _or_null(fields[name])
        fields |= {name: {"description": "Changes nothing here."} for name in sorted(IGNORED)}
        return {**schema, "additionalProperties": {"type": "null"}}

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        """What the model's runner is given: instances, each with its parameters."""
        raise NotImplementedError

    def place(self, index: int) -> str:
        """The field that the instance of an item is from."""
        raise NotImplementedError

    @property
    def names(self) -> Mapping[str, str]:
        """The field for each parameter of the runner that the request calls by another name."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[str, int]:
        """The field that makes many items of one request, and how many there are."""
        raise NotImplementedError


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    about: JsonSchemaValue = {name: schema.pop(name) for name in ("default", "description") if name in schema}
    return {"anyOf": [schema, {"type": "null"}]} | about


#: A field within the one that pydantic names.
_LEAD = re.compile(r"(?P<field>[a-z_]+): ")

RequestT = TypeVar("RequestT", bound=OpenAIRequest)


def read(kind: type[RequestT], body: bytes, max_items: int) -> RequestT:
    """Check a body; a field that is null is one that is not there.

    Raises:
        InvalidRequest: the body is not a JSON object.
        FieldError: names the first wrong field, or the one that asks for too much.
    """
    document = {name: value for name, value in read_object(body).items() if value is not None and name not in IGNORED}
    for name in document:
        if name not in kind.model_fields and name in NOT_OFFERED:
            raise refused(f"{name}: not supported, {NOT_OFFERED[name]}", name)
        if name not in kind.model_fields:
            raise refused(f"Unrecognized request argument supplied: {name}", name)
    try:
        asked = kind.model_validate(document)
    except ValidationError as error:
        raise _described(error) from None
    field, size = asked.size
    if size > max_items:
        raise FieldError(
            RequestTooLarge(f"{field}: makes {size} instances, {max_items} allowed (MAX_INSTANCES)"), field
        )
    return asked


def _described(error: ValidationError) -> FieldError:
    """The first of pydantic's complaints."""
    first = error.errors(include_url=False, include_context=False)[0]
    # pydantic marks what is wrong with a key rather than its value.
    places = [part for part in first["loc"] if part != "[key]"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in places).removeprefix(".")
    message = first["msg"].removeprefix("Value error, ")
    if (lead := _LEAD.match(message)) is not None:
        path, message = f"{path}.{lead['field']}", message[lead.end() :]
    given = first["input"]
    shown = f" (given: {given!r:.100})" if isinstance(given, str | int | float) else ""
    return refused(f"{path}: {message}{shown}", path)
