"""Format of an error, which follows from the path of its request."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from typing_extensions import TypedDict

from hf_runtime.api.anthropic.errors import describe_anthropic_error
from hf_runtime.api.http.error_response import describe_error
from hf_runtime.api.openai.errors import describe_openai_error
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import ServingError
from hf_runtime.contract.protocols import find_protocol

#: Paths that KServe V1 and OpenAI's API share: the list of models, and one model.
_SHARED_PATHS = re.compile(r"/v1/models(/[^:]*)?")


@answer_type
class SharedError(TypedDict):
    """KServe's sentence in `error`, and the fields of OpenAI's error next to it."""

    error: str
    message: str
    type: str
    param: str | None
    code: str | None


def describe_shared_error(error: ServingError) -> SharedError:
    """Return the body of an error that clients of KServe V1 and of OpenAI's API read.

    KServe's clients read a string in `error`, which OpenAI's clients accept and show. The other fields are flat, as
    earlier versions of vLLM sent them.
    """
    described = describe_openai_error(error)["error"]
    return {"error": error.message, **described}


def find_error_format(path: str) -> Callable[[ServingError], Any]:
    """Return the function that describes errors in the format that a path's clients read."""
    match find_protocol(path):
        case "openai":
            return describe_openai_error
        case "anthropic":
            return describe_anthropic_error
    return describe_shared_error if _SHARED_PATHS.fullmatch(path) else describe_error


#: All functions that `find_error_format` may return.
ERROR_FORMATS: tuple[Callable[[ServingError], Any], ...] = (
    describe_error,
    describe_openai_error,
    describe_anthropic_error,
    describe_shared_error,
)
