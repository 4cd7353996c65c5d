"""Strict parsing of JSON documents, with errors that name the field."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hf_runtime.api.http.json_body import read_object
from hf_runtime.contract.validation import make_invalid_request


class RequestModel(BaseModel):
    """Base of everything that a client sends: unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


DocumentT = TypeVar("DocumentT", bound=RequestModel)


def parse_document(kind: type[DocumentT], body: bytes) -> DocumentT:
    """Return the checked JSON document in a body.

    Raises:
        InvalidRequest: the body is not a JSON object, or names the first wrong field.
    """
    try:
        return kind.model_validate(read_object(body))
    except ValidationError as error:
        raise make_invalid_request(error) from None
