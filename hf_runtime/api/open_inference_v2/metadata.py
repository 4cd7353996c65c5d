"""Metadata of the server and of its models."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from hf_runtime.api.open_inference_v2.request import Datatype
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.signature import Signature, TensorSpec
from hf_runtime.version import __version__

#: In Triton's names; the last one is KServe's.
_EXTENSIONS = [
    "binary_tensor_data",
    "generate",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_repository_extension",
]


@answer_type
class ServerMetadata(TypedDict):
    """Name and version of the server, and the protocol's extensions that it supports."""

    name: str
    version: str
    extensions: list[str]


@answer_type
class MetadataTensor(TypedDict):
    """A tensor of a model: -1 is a size that varies, the first one counts instances."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: NotRequired[dict[str, Any]]


@answer_type
class ModelMetadata(TypedDict):
    """Inputs and outputs of a model; none are known for custom code."""

    name: str
    platform: str
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


def describe_server() -> ServerMetadata:
    """Return name, version and extensions of the server."""
    return {"name": "hugging-face-runtime", "version": __version__, "extensions": _EXTENSIONS}


def describe_model(name: str, signature: Signature) -> ModelMetadata:
    """Return inputs and outputs of a model.

    An input that instances may leave out is marked as optional.
    """
    required = set.intersection(*map(set, signature.instances)) if signature.instances else set()
    return {
        "name": name,
        "platform": "pytorch_transformers",
        "inputs": [_describe_tensor(tensor, optional=tensor.name not in required) for tensor in signature.inputs],
        "outputs": [_describe_tensor(tensor) for tensor in signature.outputs],
    }


def _describe_tensor(tensor: TensorSpec, *, optional: bool = False) -> MetadataTensor:
    described: MetadataTensor = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if optional:
        described["parameters"] = {"optional": True}
    return described
