"""From a model's answers to output tensors, as its signature says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_runtime.api.open_inference_v2.tensors import BYTES, DTYPES, Tensor, datatype_of, json_strings, strings
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.signature import ANSWER, ATTENTION_MASK, Signature, TensorSpec

#: Of a tensor that holds JSON documents, as inputs may have it.
_JSON = {"content_type": "json"}


def check_outputs(asked: Collection[str], signature: Signature) -> None:
    """Refuse outputs that the model does not give.

    Raises:
        InvalidRequest: names the first.
    """
    known = [output.name for output in signature.outputs] or [ANSWER.name]
    if _gives_vectors(signature):
        known.append(ATTENTION_MASK.name)
    for number, name in enumerate(asked):
        if name not in known:
            raise InvalidRequest(
                f"unknown output '{name[:100]}', known are {', '.join(known)}", field=f"outputs[{number}].name"
            )


def to_tensors(answers: Sequence[Any], signature: Signature, asked: Collection[str] | None) -> list[Tensor]:
    """The outputs that are asked for, all of them if None, in the order of asking.

    Args:
        answers: one for each instance, at least one.
    """
    specs = {output.name: output for output in signature.outputs}
    # A request may change what its answers are: one vector a text, or one a token.
    ragged = _gives_vectors(signature) and all(map(_is_ragged, answers))
    if asked is None:
        asked = [name for name in specs if name != ATTENTION_MASK.name] or [ANSWER.name]
        asked += [ATTENTION_MASK.name] * ragged
    tensors = []
    for name in asked:
        if name == ANSWER.name:
            tensors.append(_answer(answers, typed=not specs, ragged=ragged))
        elif name != ATTENTION_MASK.name:
            tensors.append(_field(answers, specs[name]))
        elif ragged:
            tensors.append(_attention_mask(answers))
        else:
            raise InvalidRequest(f"there is no {ATTENTION_MASK.name} of one vector a text", field="outputs")
    return tensors


def _gives_vectors(signature: Signature) -> bool:
    return any(output.name == ANSWER.name and output.datatype != BYTES for output in signature.outputs)


def _answer(answers: Sequence[Any], *, typed: bool, ragged: bool) -> Tensor:
    """An array where all answers are arrays; JSON documents otherwise.

    Args:
        typed: nothing else is promised, so that texts and numbers are what they are too.
        ragged: arrays are (1, length, …) and padded with zeros to the longest.
    """
    if all(isinstance(answer, np.ndarray) for answer in answers):
        array = _padded([answer[0] for answer in answers]) if ragged else _stacked(answers)
        if array is not None and (datatype := datatype_of(array.dtype)) is not None:
            return Tensor(ANSWER.name, datatype, array)
    kinds = set(map(type, answers))
    if typed and kinds == {str}:
        return Tensor(ANSWER.name, BYTES, strings(answers))
    if typed and len(kinds) == 1 and kinds <= {bool, int, float}:
        array = np.array(answers)
        if (datatype := datatype_of(array.dtype)) is not None:
            return Tensor(ANSWER.name, datatype, array)
    return Tensor(ANSWER.name, BYTES, json_strings(answers), _JSON)


def _is_ragged(answer: Any) -> bool:
    return isinstance(answer, np.ndarray) and answer.ndim == 3


def _stacked(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    alike = len({(array.shape, array.dtype) for array in arrays}) == 1
    return np.stack(arrays) if alike else None


def _padded(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    longest = max(map(len, arrays))
    padded = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def _attention_mask(answers: Sequence[Any]) -> Tensor:
    """1 for each token of a text, 0 behind its last."""
    return Tensor(
        ATTENTION_MASK.name,
        ATTENTION_MASK.datatype,
        _padded([np.ones(answer.shape[1], DTYPES[ATTENTION_MASK.datatype]) for answer in answers]),
    )


def _field(answers: Sequence[Any], spec: TensorSpec) -> Tensor:
    """A field of the objects in each answer, (instances, objects)."""
    rows = [[part[spec.name] for part in answer] for answer in answers]
    shape = (len(rows), len(rows[0]))
    if spec.datatype == BYTES:
        # A label is a number where the model's config says so.
        return Tensor(spec.name, BYTES, strings([str(element) for row in rows for element in row]).reshape(shape))
    return Tensor(spec.name, spec.datatype, np.array(rows, DTYPES[spec.datatype]).reshape(shape))
