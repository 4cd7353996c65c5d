"""Answers of the Open Inference Protocol.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_rest.yaml and,
for texts, generate_rest.yaml beside it.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from hf_runtime.api.open_inference_v2.request import Datatype

_STRICT = ConfigDict(extra="forbid", protected_namespaces=())


@with_config(_STRICT)
class ServerLive(TypedDict):
    """The server takes requests."""

    live: Literal[True]


@with_config(_STRICT)
class ServerReady(TypedDict):
    """Every model can answer."""

    ready: Literal[True]


@with_config(_STRICT)
class ServerMetadata(TypedDict):
    """The server, and what it speaks beyond the protocol's core."""

    name: str
    version: str
    extensions: list[str]


@with_config(_STRICT)
class MetadataTensor(TypedDict):
    """A tensor of a model: -1 is a size that varies, the first one counts instances."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: NotRequired[dict[str, Any]]


@with_config(_STRICT)
class ModelMetadata(TypedDict):
    """What a model takes and gives; nothing is known of code that a model brings."""

    name: str
    platform: str
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


@with_config(_STRICT)
class ResponseOutput(TypedDict):
    """A tensor; `data` in row-major order, or `parameters.binary_data_size` bytes behind the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: NotRequired[dict[str, Any]]
    data: NotRequired[list[str] | list[float] | list[bool]]


@with_config(_STRICT)
class InferenceResponse(TypedDict):
    """The outputs that were asked for, of all instances."""

    model_name: str
    id: str
    outputs: list[ResponseOutput]


@with_config(_STRICT)
class GeneratedToken(TypedDict):
    """A token that was written."""

    id: int
    text: str
    logprob: float
    special: bool


@with_config(_STRICT)
class GenerateDetails(TypedDict):
    """How a text came about."""

    finish_reason: NotRequired[Literal["length", "eos_token", "stop_sequence"]]
    prompt_tokens: NotRequired[int]
    cached_tokens: NotRequired[int]
    generated_tokens: NotRequired[int]
    logprobs: list[GeneratedToken]


@with_config(_STRICT)
class GenerateResponse(TypedDict):
    """The text that was written."""

    model_name: str
    id: str
    text_output: str
    details: NotRequired[GenerateDetails]


@with_config(_STRICT)
class GenerateStreamResponse(GenerateResponse):
    """An event of a stream; the last has a `finish_reason` in its details, or an `error`."""

    error: NotRequired[str]


@with_config(_STRICT)
class RepositoryModel(TypedDict):
    """A configured model, and how it is."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


@with_config(_STRICT)
class ModelLoaded(TypedDict):
    """The model is loaded."""

    name: str
    load: Literal[True]


@with_config(_STRICT)
class ModelUnloaded(TypedDict):
    """The model is unloaded."""

    name: str
    unload: Literal[True]
