"""How every request is read: strictly, with errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hf_runtime.api.http.json_body import read_object
from hf_runtime.contract.errors import InvalidRequest, RequestTooLarge
from hf_runtime.contract.validation import invalid_request
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


RequestT = TypeVar("RequestT", bound=OpenAIRequest)


def read(kind: type[RequestT], body: bytes, max_items: int) -> RequestT:
    """Check a body; a field that is null is one that is not there.

    Raises:
        InvalidRequest: the body is not a JSON object, or a field is wrong.
        RequestTooLarge: the request makes more items than one may.
    """
    document = {name: value for name, value in read_object(body).items() if value is not None and name not in IGNORED}
    for name in document:
        if name not in kind.model_fields and name in NOT_OFFERED:
            raise InvalidRequest(f"not supported, {NOT_OFFERED[name]}", field=name)
        if name not in kind.model_fields:
            reason = f"Unrecognized request argument supplied: {name}"
            raise InvalidRequest(reason, field=name, shows_field=False)
    try:
        asked = kind.model_validate(document)
    except ValidationError as error:
        raise invalid_request(error, show_input=True) from None
    field, size = asked.size
    if size > max_items:
        raise RequestTooLarge(f"makes {size} instances, {max_items} allowed (MAX_INSTANCES)", field=field)
    return asked
