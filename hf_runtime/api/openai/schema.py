"""Parsing of requests, with errors that name the field.

Fields that the server does not know are ignored or refused, as the operator chooses.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import GetJsonSchemaHandler, PrivateAttr, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hf_runtime.api.http.json_body import read_object
from hf_runtime.api.openai.unserved import IGNORED, NOT_OFFERED, Unserved
from hf_runtime.contract.errors import InvalidRequest, RequestTooLarge, ServingError
from hf_runtime.contract.validation import StrictModel, allow_null, make_invalid_request
from hf_runtime.settings import ServerSettings, Task

logger = logging.getLogger(__name__)

#: Maximum number of unknown fields that are removed from a request's nested objects. A request with more is refused.
_MAX_UNKNOWN = 1000
#: Most characters of the names of ignored fields in the log and in a header, and of one name.
_MAX_NAMES, _MAX_NAME = 500, 100
#: Header with the names of ignored fields, in responses to requests with such fields.
_IGNORED_HEADER = "X-Ignored-Fields"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")

UnknownFields = Literal["ignore", "refuse"]


class OpenAIRequest(StrictModel):
    """A request that a model answers."""

    #: Tasks of the models that can answer it.
    tasks: ClassVar[tuple[Task, ...]]
    #: Documented fields that change nothing, and those that are refused, each with the reason.
    ignored: ClassVar[frozenset[str]] = IGNORED
    not_offered: ClassVar[Mapping[str, Unserved]] = NOT_OFFERED

    #: Neutral values of fields that are not served, where these values are of this kind of request.
    neutral_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str

    _ignored_fields: str = PrivateAttr("")

    @property
    def ignored_fields(self) -> str:
        """Names of the unknown fields that were ignored, with commas."""
        return self._ignored_fields

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add null in optional fields, and the fields that change nothing."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        allow_null(schema)
        fields = schema["properties"]
        fields |= {name: {"description": "Changes nothing here."} for name in sorted(cls.ignored - fields.keys())}
        fields |= {
            name: {"description": f"Not supported, {unserved.reason}.", "enum": [None, *cls.neutral(name)]}
            for name, unserved in cls.not_offered.items()
            if name not in fields
        }
        return {**schema, "additionalProperties": {"type": "null"}}

    @classmethod
    def neutral(cls, name: str) -> tuple[Any, ...]:
        """Return the values with which a field that is not served changes nothing."""
        return cls.neutral_values.get(name, cls.not_offered[name].neutral)

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


RequestT = TypeVar("RequestT", bound=OpenAIRequest)


def parse_request(kind: type[RequestT], body: bytes, settings: ServerSettings) -> RequestT:
    """Return the request in a body.

    Raises:
        InvalidRequest: the body is not a JSON object, or a field is wrong.
        RequestTooLarge: the request makes more items than allowed.
    """
    return parse_document(kind, read_object(body), settings)


def parse_document(kind: type[RequestT], given: Mapping[str, Any], settings: ServerSettings) -> RequestT:
    """Return the request in an object; a field that is null counts as missing.

    Raises:
        InvalidRequest, RequestTooLarge: as `parse_request`.
    """
    known, unknown = kind.model_fields, settings.openai_unknown_fields
    document, ignored = {}, []
    for name, value in given.items():
        if name in known:
            if value is not None:
                document[name] = value
        elif value is not None and name not in kind.ignored and not _is_neutral(kind, name, value):
            _check_ignored(name, unknown)
            ignored.append(name)
    parsed, nested = _validate(kind, document, unknown)
    if ignored or nested:
        parsed._ignored_fields = _join_names([*ignored, *nested])
        logger.info("Unknown fields of a request are ignored: %s", parsed.ignored_fields)
    field, size = parsed.item_count
    if size > settings.max_instances:
        reason = f"makes {size} instances, {settings.max_instances} allowed (MAX_INSTANCES)"
        raise RequestTooLarge(reason, field=field)
    return parsed


def _is_neutral(kind: type[OpenAIRequest], name: str, value: Any) -> bool:
    """Return true for a known field that changes nothing, false for an unknown one.

    Raises:
        InvalidRequest: the field would change the answer.
    """
    if name not in kind.not_offered:
        return False
    # Python's true equals 1, which is another value in JSON.
    if not any(type(value) is type(neutral) and value == neutral for neutral in kind.neutral(name)):
        raise InvalidRequest(f"not supported, {kind.not_offered[name].reason}", field=name)
    return True


def _check_ignored(name: str, unknown: UnknownFields) -> None:
    if unknown == "refuse":
        reason = f"Unrecognized request argument supplied: {name}"
        raise InvalidRequest(reason, field=name[:_MAX_NAME], shows_field=False)


def _validate(kind: type[RequestT], document: dict[str, Any], unknown: UnknownFields) -> tuple[RequestT, Iterable[str]]:
    """Return the request, and the names of unknown fields that were removed inside of it."""
    removed: dict[str, None] = {}
    while True:
        try:
            return kind.model_validate(document), removed
        except ValidationError as error:
            found = list(_remove_unknown(document, error)) if unknown == "ignore" else []
            if not found:
                raise make_invalid_request(error, show_input=True) from None
            removed |= dict.fromkeys(found)


def _remove_unknown(document: dict[str, Any], error: ValidationError) -> Iterator[str]:
    """Remove the unknown fields that an error is about, and yield their names, without indexes."""
    if error.error_count() > _MAX_UNKNOWN:
        return
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        if each["type"] == "extra_forbidden":
            *path, name = each["loc"]
            holder = _find_object(document, path)
            if isinstance(holder, dict) and name in holder:
                del holder[name]
                yield ".".join(part for part in each["loc"] if isinstance(part, str))


def _find_object(document: Any, path: Iterable[str | int]) -> Any:
    """Return the value at a path of pydantic's.

    The path may contain names of types, and its indexes do not count elements that are null.
    """
    for part in path:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list) and isinstance(part, int):
            present = document if None not in document else [each for each in document if each is not None]
            document = present[part] if part < len(present) else None
    return document


def _join_names(names: Iterable[str]) -> str:
    """Return names with commas, of safe characters and not too long for a header."""
    joined = ""
    for name in dict.fromkeys(_UNSAFE.sub("?", name[:_MAX_NAME]) for name in names):
        longer = f"{joined},{name}" if joined else name
        if len(longer) > _MAX_NAMES:
            break
        joined = longer
    return joined


def name_ignored_fields(parsed: OpenAIRequest) -> dict[str, str]:
    """Return the header with the names of ignored fields; none without such fields."""
    return {_IGNORED_HEADER: parsed.ignored_fields} if parsed.ignored_fields else {}
