"""The model repository extension of the Open Inference Protocol: which models there are, loading and unloading them.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import http_call
from hf_runtime.api.http.json_body import json_response, read_object
from hf_runtime.api.inference import Models, take_note, wait_in_time
from hf_runtime.contract.errors import Forbidden, InvalidRequest
from hf_runtime.rpc.messages import ModelState, ModelStatus
from hf_runtime.settings import ServerSettings

#: Triton's names.
_STATES: Mapping[ModelStatus, str] = {
    "loading": "LOADING",
    "ready": "READY",
    "failed": "UNAVAILABLE",
    "unloading": "UNLOADING",
    "unloaded": "UNAVAILABLE",
}

#: Models are served in the one version that their storage URIs name.
_VERSION = "1"


def routes(models: Models, settings: ServerSettings) -> list[Route]:
    """The routes of the extension."""

    async def index(request: Request) -> Response:
        asked = await _read(request, settings, ("ready",))
        only_ready = _flag(asked, "ready", "ready")
        states = models.states().items()
        return json_response(
            [_entry(name, state) for name, state in states if state.status == "ready" or not only_ready]
        )

    async def load(request: Request) -> Response:
        await _check_allowed(request, settings)
        call = http_call(request, settings)
        client = models.client(request.path_params["name"], call)
        await _in_time(call, client.load(), f"model {client.name} is still loading")
        return json_response({"name": client.name, "load": True})

    async def unload(request: Request) -> Response:
        await _check_allowed(request, settings)
        call = http_call(request, settings)
        client = models.client(request.path_params["name"], call)
        await _in_time(call, client.unload(), f"model {client.name} is still computing")
        return json_response({"name": client.name, "unload": True})

    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/repository/models/{name:model}/load", load, methods=["POST"]),
        Route("/v2/repository/models/{name:model}/unload", unload, methods=["POST"]),
    ]


def _entry(name: str, state: ModelState) -> dict[str, Any]:
    return {"name": name, "version": _VERSION, "state": _STATES[state.status], "reason": state.reason or ""}


async def _check_allowed(request: Request, settings: ServerSettings) -> None:
    """Nothing that a client writes says what is loaded: neither files nor configurations are taken.

    Raises:
        Forbidden: the operator has not enabled it.
        InvalidRequest: a parameter is given that would mean something.
    """
    if not settings.model_management:
        raise Forbidden("clients may not load or unload models of this server: MODEL_MANAGEMENT is not true")
    parameters = (await _read(request, settings, ("parameters",))).get("parameters")
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise InvalidRequest("must be an object", field="parameters")
    _check_names(parameters, ("unload_dependents",), "parameters.")
    _flag(parameters, "unload_dependents", "parameters.unload_dependents")


async def _read(request: Request, settings: ServerSettings, fields: Collection[str]) -> dict[str, Any]:
    """The JSON object in the body, which may be empty."""
    body = await read_body(request, settings)
    document = read_object(body) if body.strip() else {}
    _check_names(document, fields, "")
    return document


def _check_names(given: Mapping[str, Any], known: Collection[str], prefix: str) -> None:
    for name in given:
        if name not in known:
            raise InvalidRequest(f"is not taken here, only {' and '.join(known)} may be given", field=f"{prefix}{name}")


def _flag(given: Mapping[str, Any], name: str, place: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest("must be true or false", field=place)
    return value


async def _in_time(call: CallContext, step: Awaitable[None], meanwhile: str) -> None:
    """Wait for a step, which goes on if nobody waits for it any more.

    Raises:
        DeadlineExceeded: it takes longer than requests may.
        ClientLeft: the client left.
    """
    doing = asyncio.ensure_future(step)
    doing.add_done_callback(take_note)
    limit = f"{call.timeout:g} s (REQUEST_TIMEOUT)"
    late = f"{meanwhile} after {limit}; /v2/repository/index tells when it is done"
    try:
        await wait_in_time(call, doing, late)
        doing.result()
    finally:
        doing.cancel()
