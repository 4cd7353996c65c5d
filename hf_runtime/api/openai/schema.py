"""Strict parsing of requests, with errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hf_runtime.api.http.json_body import read_object
from hf_runtime.contract.errors import InvalidRequest, RequestTooLarge, ServingError
from hf_runtime.contract.validation import StrictModel, make_invalid_request
from hf_runtime.settings import Task

#: Documented fields that are accepted and change nothing: user ids, storage, and hints for OpenAI's models.
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

#: Documented fields that are refused, because the answer without them would be wrong.
NOT_OFFERED: Mapping[str, str] = {
    "audio": "answers are text only",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "moderation": "nothing is moderated here",
    "prediction": "predicted outputs are not offered",
    "suffix": "insertion is not offered",
    "web_search_options": "there is no web search",
}


class OpenAIRequest(StrictModel):
    """A request that a model answers."""

    #: Tasks of the models that can answer it.
    tasks: ClassVar[tuple[Task, ...]]
    #: Documented fields that change nothing, and those that are refused, each with the reason.
    ignored: ClassVar[frozenset[str]] = IGNORED
    not_offered: ClassVar[Mapping[str, str]] = NOT_OFFERED

    model: str

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add what `parse_request` accepts, too: null in optional fields, and ignored fields."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        fields = schema["properties"]
        for name in fields.keys() - set(schema["required"]):
            fields[name] = allow_null(fields[name])
        fields |= {name: {"description": "Changes nothing here."} for name in sorted(cls.ignored)}
        return {**schema, "additionalProperties": {"type": "null"}}

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        """Items for the model's runner: instances, each with its parameters."""
        raise NotImplementedError

    def locate(self, index: int) -> str:
        """Return the field that the instance of an item is from."""
        raise NotImplementedError

    @property
    def field_names(self) -> Mapping[str, str]:
        """Field for each parameter of the runner that has another name in the request."""
        raise NotImplementedError

    def translate_error(self, error: ServingError) -> ServingError:
        """Return a runner's error with the request's names of parameters and fields."""
        names = self.field_names
        return error.with_parameter_names(lambda name: names.get(name, name)).with_known_field(type(self).model_fields)

    @property
    def item_count(self) -> tuple[str, int]:
        """Field that determines the number of items, and that number."""
        raise NotImplementedError


def allow_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Return a field's schema that also accepts null."""
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    moved: JsonSchemaValue = {name: schema.pop(name) for name in ("default", "description") if name in schema}
    return {"anyOf": [schema, {"type": "null"}]} | moved


RequestT = TypeVar("RequestT", bound=OpenAIRequest)


def parse_request(kind: type[RequestT], body: bytes, max_items: int) -> RequestT:
    """Return the request in a body; a field that is null counts as missing.

    Raises:
        InvalidRequest: the body is not a JSON object, or a field is wrong.
        RequestTooLarge: the request makes more items than allowed.
    """
    ignored, not_offered = kind.ignored, kind.not_offered
    document = {name: value for name, value in read_object(body).items() if value is not None and name not in ignored}
    for name in document:
        if name not in kind.model_fields and name in not_offered:
            raise InvalidRequest(f"not supported, {not_offered[name]}", field=name)
        if name not in kind.model_fields:
            reason = f"Unrecognized request argument supplied: {name}"
            raise InvalidRequest(reason, field=name, shows_field=False)
    try:
        parsed = kind.model_validate(document)
    except ValidationError as error:
        raise make_invalid_request(error, show_input=True) from None
    field, size = parsed.item_count
    if size > max_items:
        raise RequestTooLarge(f"makes {size} instances, {max_items} allowed (MAX_INSTANCES)", field=field)
    return parsed
