"""JSON as every protocol here reads and writes it: strictly, and numpy arrays as nested lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from errors import InvalidRequest


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; NaN, broken UTF-8, lone surrogates and deep nesting are refused.

    Raises:
        InvalidRequest: the body is not that.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"Unrecognized request format: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest("Unrecognized request format: the body must be a JSON object")
    return document


def encode(content: Any) -> bytes:
    """Compact JSON."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def finite_logprob(token: Mapping[str, Any]) -> float:
    """A token's log probability; OpenAI's for one that is next to impossible, as JSON has no infinity."""
    return max(float(token["logprob"]), -9999.0)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response with compact JSON."""
    return Response(encode(content), status, headers, media_type="application/json")
