"""OpenAPI document of the whole server.

Source: https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.routing import BaseRoute
from starlette.schemas import SchemaGenerator

from hf_runtime.api.anthropic.errors import AnthropicError, describe_anthropic_error
from hf_runtime.api.http.authentication import list_public_paths
from hf_runtime.api.http.error_formats import SharedError, describe_shared_error, find_error_format
from hf_runtime.api.http.error_response import Error, describe_error
from hf_runtime.api.inference import Models
from hf_runtime.api.openai.errors import OpenAIError, describe_openai_error
from hf_runtime.api.openapi import (
    anthropic,
    bentoml,
    health,
    kserve_v1,
    model_repository,
    open_inference_v2,
    openai,
    responses,
    tokenization,
)
from hf_runtime.api.openapi.operation import HEADERS, REQUEST_ID, Operations, Served, errors, make_error_components
from hf_runtime.api.openapi.schemas import Json
from hf_runtime.contract.errors import ServingError
from hf_runtime.settings import ServerSettings
from hf_runtime.version import __version__

_ABOUT = """\
Hugging Face transformers models behind the APIs of KServe, OpenAI and Anthropic.

An unknown route is a 404 and a wrong method a 405, in the shape of the protocol whose path it begins with.
"""

#: Prefixes of the error components of each format.
_ERROR_PREFIXES: Mapping[Callable[[ServingError], Any], str] = {
    describe_error: "",
    describe_openai_error: openai.ERRORS,
    describe_anthropic_error: anthropic.ERRORS,
    describe_shared_error: kserve_v1.SHARED_ERRORS,
}

#: Headers with an API key.
_KEYS: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def route_names(routes: Sequence[BaseRoute]) -> list[str]:
    """Return the routes of the document, as `METHOD path`."""
    endpoints = SchemaGenerator({}).get_endpoints(list(routes))
    return [f"{endpoint.http_method.upper()} {endpoint.path}" for endpoint in endpoints]


def descriptions(served: Served) -> Operations:
    """Return the descriptions of all routes, BentoML's included."""
    return {
        **kserve_v1.describe_routes(served),
        **health.describe_routes(served),
        **open_inference_v2.describe_routes(served),
        **model_repository.describe_routes(served),
        **openai.describe_routes(served),
        **responses.describe_routes(served),
        **anthropic.describe_routes(served),
        **tokenization.describe_routes(served),
        **bentoml.OPERATIONS,
    }


def make_document(models: Models, settings: ServerSettings, routes: Sequence[BaseRoute]) -> Json:
    """Return the document of these routes and of BentoML's, for these models."""
    served = Served(models, settings)
    described = descriptions(served)
    paths: dict[str, Json] = {}
    for name in [*route_names(routes), *bentoml.OPERATIONS]:
        if name in described:
            method, path = name.split(" ")
            paths.setdefault(path, {})[method.lower()] = _add_security(path, described[name], settings)
    responses = {
        **make_error_components("", served.schemas.of(Error)),
        **make_error_components(openai.ERRORS, served.schemas.of(OpenAIError)),
        **make_error_components(kserve_v1.SHARED_ERRORS, served.schemas.of(SharedError)),
        **make_error_components(anthropic.ERRORS, served.schemas.of(AnthropicError)),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hugging Face Runtime",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": served.schemas.components,
            "responses": responses,
            "headers": dict(HEADERS),
            "parameters": {REQUEST_ID["name"]: REQUEST_ID},
            **({"securitySchemes": _KEYS} if settings.requires_api_key else {}),
        },
    }


def _add_security(path: str, described: Json, settings: ServerSettings) -> Json:
    """Return a route's description with the API key, if the route needs one."""
    if not settings.requires_api_key or path in list_public_paths(settings):
        return described
    refused = errors(_ERROR_PREFIXES[find_error_format(path)], (401,))
    return {**described, "security": [{name: []} for name in _KEYS], "responses": described["responses"] | refused}
