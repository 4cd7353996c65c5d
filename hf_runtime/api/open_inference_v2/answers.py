"""Conversion of a model's answers to output tensors, according to its signature."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_runtime.api.open_inference_v2.tensors import BYTES, DTYPES, Tensor, get_datatype, to_bytes_array, to_json_array
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.signature import ANSWER, ATTENTION_MASK, Signature, TensorSpec

#: Parameters of a tensor that holds JSON documents; inputs may have them, too.
_JSON = {"content_type": "json"}


def check_outputs(requested: Collection[str], signature: Signature) -> None:
    """Refuse outputs that the model does not have.

    Raises:
        InvalidRequest: names the first.
    """
    known = [output.name for output in signature.outputs] or [ANSWER.name]
    if _has_vectors(signature):
        known.append(ATTENTION_MASK.name)
    for number, name in enumerate(requested):
        if name not in known:
            raise InvalidRequest(
                f"unknown output '{name[:100]}', known are {', '.join(known)}", field=f"outputs[{number}].name"
            )


def to_tensors(answers: Sequence[Any], signature: Signature, requested: Collection[str] | None) -> list[Tensor]:
    """Return the requested outputs in the requested order; all outputs if None.

    Args:
        answers: one for each instance, at least one.
    """
    specs = {output.name: output for output in signature.outputs}
    # The answers of a request have one vector per text or one per token, depending on its parameters.
    ragged = _has_vectors(signature) and all(map(_is_ragged, answers))
    if requested is None:
        requested = [name for name in specs if name != ATTENTION_MASK.name] or [ANSWER.name]
        requested += [ATTENTION_MASK.name] * ragged
    tensors = []
    for name in requested:
        if name == ANSWER.name:
            tensors.append(_to_answer_tensor(answers, typed=not specs, ragged=ragged))
        elif name != ATTENTION_MASK.name:
            tensors.append(_to_field_tensor(answers, specs[name]))
        elif ragged:
            tensors.append(_to_attention_mask(answers))
        else:
            raise InvalidRequest(f"there is no {ATTENTION_MASK.name} of one vector a text", field="outputs")
    return tensors


def _has_vectors(signature: Signature) -> bool:
    return any(output.name == ANSWER.name and output.datatype != BYTES for output in signature.outputs)


def _to_answer_tensor(answers: Sequence[Any], *, typed: bool, ragged: bool) -> Tensor:
    """Return an array tensor if all answers are arrays, else a tensor of JSON documents.

    Args:
        typed: the signature promises no datatype, so strings and numbers keep their own.
        ragged: arrays are (1, length, …) and padded with zeros to the longest.
    """
    if all(isinstance(answer, np.ndarray) for answer in answers):
        array = _pad([answer[0] for answer in answers]) if ragged else _stack(answers)
        if array is not None and (datatype := get_datatype(array.dtype)) is not None:
            return Tensor(ANSWER.name, datatype, array)
    kinds = set(map(type, answers))
    if typed and kinds == {str}:
        return Tensor(ANSWER.name, BYTES, to_bytes_array(answers))
    if typed and len(kinds) == 1 and kinds <= {bool, int, float}:
        array = np.array(answers)
        if (datatype := get_datatype(array.dtype)) is not None:
            return Tensor(ANSWER.name, datatype, array)
    return Tensor(ANSWER.name, BYTES, to_json_array(answers), _JSON)


def _is_ragged(answer: Any) -> bool:
    return isinstance(answer, np.ndarray) and answer.ndim == 3


def _stack(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    alike = len({(array.shape, array.dtype) for array in arrays}) == 1
    return np.stack(arrays) if alike else None


def _pad(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    longest = max(map(len, arrays))
    padded = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def _to_attention_mask(answers: Sequence[Any]) -> Tensor:
    """Return a mask of (instances, longest): 1 for each token, 0 for padding."""
    return Tensor(
        ATTENTION_MASK.name,
        ATTENTION_MASK.datatype,
        _pad([np.ones(answer.shape[1], DTYPES[ATTENTION_MASK.datatype]) for answer in answers]),
    )


def _to_field_tensor(answers: Sequence[Any], spec: TensorSpec) -> Tensor:
    """Return a field of the objects in each answer as (instances, objects)."""
    rows = [[part[spec.name] for part in answer] for answer in answers]
    shape = (len(rows), len(rows[0]))
    if spec.datatype == BYTES:
        # Labels are numbers if the model's config has numbers.
        elements = [str(element) for row in rows for element in row]
        return Tensor(spec.name, BYTES, to_bytes_array(elements).reshape(shape))
    return Tensor(spec.name, spec.datatype, np.array(rows, DTYPES[spec.datatype]).reshape(shape))
