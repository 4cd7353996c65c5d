"""JSON of all protocols: strict, with numpy arrays as nested lists."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import orjson
from starlette.responses import Response

from hf_runtime.contract.errors import InvalidRequest, NonFiniteError, make_encoding_error


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body.

    NaN, invalid UTF-8, lone surrogates and deep nesting are refused.

    Raises:
        InvalidRequest: the body is not such an object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"Unrecognized request format: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest("Unrecognized request format: the body must be a JSON object")
    return document


def encode(content: Any) -> bytes:
    """Return compact JSON.

    Raises:
        InferenceFailed: JSON has no form for a value, such as NaN or half of a character.
    """
    try:
        encoded = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as error:
        raise make_encoding_error(error) from None
    # orjson writes null for NaN and infinity, and for None.
    if b"null" in encoded and not _is_finite(content):
        raise make_encoding_error(NonFiniteError())
    return encoded


def encode_event(content: Any) -> bytes:
    """Return a server-sent event with compact JSON; raise the errors of `encode`."""
    return b"data: " + encode(content) + b"\n\n"


def _is_finite(value: Any) -> bool:
    # Imported here, because the process that starts the others does not need numpy.
    import numpy as np

    match value:
        case float():
            return isfinite(value)
        case np.ndarray() | np.generic():
            return value.dtype.kind != "f" or bool(np.isfinite(value).all())
        case dict():
            return all(map(_is_finite, value.values()))
        case list() | tuple():
            return all(map(_is_finite, value))
        case _:
            return True


def clamp_logprob(token: Mapping[str, Any]) -> float:
    """Return a token's log probability, at least OpenAI's minimum: JSON has no infinity."""
    return max(float(token["logprob"]), -9999.0)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with compact JSON."""
    return Response(encode(content), status, headers, media_type="application/json")
