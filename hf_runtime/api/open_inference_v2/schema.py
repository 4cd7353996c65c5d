"""How documents are read: strictly, with errors that name the field."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hf_runtime.api.http.json_body import read_object
from hf_runtime.contract.validation import invalid_request


class RequestModel(BaseModel):
    """Base of all that a client writes: unknown fields and wrong types are refused, never guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


DocumentT = TypeVar("DocumentT", bound=RequestModel)


def read(kind: type[DocumentT], body: bytes) -> DocumentT:
    """Check a JSON document.

    Raises:
        InvalidRequest: the body is not a JSON object, or names the first wrong field.
    """
    try:
        return kind.model_validate(read_object(body))
    except ValidationError as error:
        raise invalid_request(error) from None
