"""Descriptions of the routes of the model repository extension.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

from hf_runtime.api.model_repository import ModelLoaded, ModelUnloaded, RepositoryModel
from hf_runtime.api.openapi.operation import JSON, Operations, Served, errors, model_parameter, ok, operation
from hf_runtime.api.openapi.schemas import Json

_TAG = "Model repository"
_ALLOWED = "Needs the setting `MODEL_MANAGEMENT=true`. The answer comes when all runners of the model are done."

#: Triton's parameter. It changes nothing, because no model here depends on another.
_PARAMETERS = {
    "type": ["object", "null"],
    "properties": {"unload_dependents": {"type": "boolean"}},
    "additionalProperties": False,
}


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    name = model_parameter(served.models.names)
    changing = errors("", (400, 403, 404, 408, 413, 415, 503, 504))
    return {
        "POST /v2/repository/index": operation(
            _TAG,
            "v2_repository_index",
            "List the models with their states",
            {**ok(served.schemas.of(list[RepositoryModel])), **errors("", (400, 408, 413, 415, 503))},
            body=_make_body(
                {"ready": {"type": "boolean", "default": False, "description": "List only the models that are ready."}}
            ),
            body_required=False,
        ),
        "POST /v2/repository/models/{name}/load": operation(
            _TAG,
            "v2_repository_load",
            "Load a model again",
            {**ok(served.schemas.of(ModelLoaded)), **changing},
            description=_ALLOWED,
            parameters=[name],
            body=_make_body({"parameters": _PARAMETERS}),
            body_required=False,
        ),
        "POST /v2/repository/models/{name}/unload": operation(
            _TAG,
            "v2_repository_unload",
            "Unload a model and free its memory",
            {**ok(served.schemas.of(ModelUnloaded)), **changing},
            description=_ALLOWED,
            parameters=[name],
            body=_make_body({"parameters": _PARAMETERS}),
            body_required=False,
        ),
    }


def _make_body(properties: Json) -> Json:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {JSON: {"schema": schema, "example": {}}}
