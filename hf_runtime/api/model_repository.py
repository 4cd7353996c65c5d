"""Model repository extension of the Open Inference Protocol: list, load and unload models.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import TypedDict

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.json_body import json_response, read_object
from hf_runtime.api.inference import Models, mark_error_retrieved, wait_in_time
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import Forbidden, InvalidRequest
from hf_runtime.rpc.messages import ModelState, ModelStatus
from hf_runtime.settings import ServerSettings

_State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]

#: Triton's names.
_STATES: Mapping[ModelStatus, _State] = {
    "loading": "LOADING",
    "ready": "READY",
    "failed": "UNAVAILABLE",
    "unloading": "UNLOADING",
    "unloaded": "UNAVAILABLE",
}

#: Each model has one version, the one in its storage URI.
_VERSION = "1"


@answer_type
class RepositoryModel(TypedDict):
    """A configured model and its state."""

    name: str
    version: str
    state: _State
    reason: str


@answer_type
class ModelLoaded(TypedDict):
    """The model is loaded."""

    name: str
    load: Literal[True]


@answer_type
class ModelUnloaded(TypedDict):
    """The model is unloaded."""

    name: str
    unload: Literal[True]


def make_routes(models: Models, settings: ServerSettings) -> list[Route]:
    """Return the routes of the extension."""

    async def index(request: Request) -> Response:
        document = await _read_document(request, settings, ("ready",))
        only_ready = _parse_flag(document, "ready", "ready")
        states = models.get_states().items()
        return json_response(
            [_describe_model(name, state) for name, state in states if state.status == "ready" or not only_ready]
        )

    async def load(request: Request) -> Response:
        await _check_allowed(request, settings)
        call = make_call_context(request, settings)
        client = models.get_client(request.path_params["name"], call)
        await _wait_for_change(call, client.load(), f"model {client.name} is still loading")
        return json_response(ModelLoaded(name=client.name, load=True))

    async def unload(request: Request) -> Response:
        await _check_allowed(request, settings)
        call = make_call_context(request, settings)
        client = models.get_client(request.path_params["name"], call)
        await _wait_for_change(call, client.unload(), f"model {client.name} is still computing")
        return json_response(ModelUnloaded(name=client.name, unload=True))

    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/repository/models/{name:model}/load", load, methods=["POST"]),
        Route("/v2/repository/models/{name:model}/unload", unload, methods=["POST"]),
    ]


def _describe_model(name: str, state: ModelState) -> RepositoryModel:
    return {"name": name, "version": _VERSION, "state": _STATES[state.status], "reason": state.reason or ""}


async def _check_allowed(request: Request, settings: ServerSettings) -> None:
    """Check that clients may load and unload models, and check the body.

    Files and configurations are refused: clients cannot choose what is loaded.

    Raises:
        Forbidden: the operator has not enabled it.
        InvalidRequest: there is a parameter other than `unload_dependents`.
    """
    if not settings.model_management:
        raise Forbidden("clients may not load or unload models of this server: MODEL_MANAGEMENT is not true")
    parameters = (await _read_document(request, settings, ("parameters",))).get("parameters")
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise InvalidRequest("must be an object", field="parameters")
    _check_names(parameters, ("unload_dependents",), "parameters.")
    _parse_flag(parameters, "unload_dependents", "parameters.unload_dependents")


async def _read_document(request: Request, settings: ServerSettings, fields: Collection[str]) -> dict[str, Any]:
    """Return the JSON object in the body; an empty one if the body is empty."""
    body = await read_body(request, settings)
    document = read_object(body) if body.strip() else {}
    _check_names(document, fields, "")
    return document


def _check_names(fields: Mapping[str, Any], known: Collection[str], prefix: str) -> None:
    for name in fields:
        if name not in known:
            raise InvalidRequest(f"is not taken here, only {' and '.join(known)} may be given", field=f"{prefix}{name}")


def _parse_flag(fields: Mapping[str, Any], name: str, path: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest("must be true or false", field=path)
    return value


async def _wait_for_change(call: CallContext, change: Awaitable[None], state: str) -> None:
    """Wait until a model is loaded or unloaded.

    The change continues if the client leaves or the call times out.

    Raises:
        DeadlineExceeded: it takes longer than the timeout of requests.
        ClientLeft: the client left.
    """
    future = asyncio.ensure_future(change)
    future.add_done_callback(mark_error_retrieved)
    limit = f"{call.timeout:g} s (REQUEST_TIMEOUT)"
    late = f"{state} after {limit}; /v2/repository/index tells when it is done"
    try:
        await wait_in_time(call, future, late)
        future.result()
    finally:
        future.cancel()
