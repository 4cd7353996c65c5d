"""What the server and its models say of themselves."""

from __future__ import annotations

from typing import Any

from hf_runtime.contract.signature import Signature, TensorSpec
from hf_runtime.version import __version__

#: As Triton names them, and KServe the last.
_EXTENSIONS = [
    "binary_tensor_data",
    "generate",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_repository_extension",
]


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "hugging-face-runtime", "version": __version__, "extensions": _EXTENSIONS}


def model_metadata(name: str, signature: Signature) -> dict[str, Any]:
    """Inputs and outputs of a model; an input that an instance can do without is marked as optional."""
    required = set.intersection(*map(set, signature.instances)) if signature.instances else set()
    return {
        "name": name,
        "platform": "pytorch_transformers",
        "inputs": [_tensor(tensor, optional=tensor.name not in required) for tensor in signature.inputs],
        "outputs": [_tensor(tensor) for tensor in signature.outputs],
    }


def _tensor(tensor: TensorSpec, *, optional: bool = False) -> dict[str, Any]:
    described = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    return described | ({"parameters": {"optional": True}} if optional else {})
