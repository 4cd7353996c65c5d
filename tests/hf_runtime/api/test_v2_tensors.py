"""Promise: tensors on the wire are compatible with Triton's client in both directions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import np_to_triton_dtype

from hf_runtime.api.open_inference_v2.request import HEADER_LENGTH, InferRequest, parse_request
from hf_runtime.api.open_inference_v2.response import render_response
from hf_runtime.api.open_inference_v2.tensors import DTYPES, Tensor, from_json
from hf_runtime.contract.errors import InvalidRequest

_NUMBERS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays.arrays(
        DTYPES[name],
        arrays.array_shapes(max_dims=4, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if DTYPES[name].kind == "f" else None,
    )
)
_TEXTS = st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=5)
_BYTES = st.lists(st.binary(max_size=20), min_size=1, max_size=5)


def _object_array(elements: list[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def _read(array: np.ndarray[Any, np.dtype[Any]], *, binary: bool) -> InferRequest:
    tensor = triton.InferInput("x", list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=binary)
    output = triton.InferRequestedOutput("y", binary_data=binary)
    body, length = triton.InferenceServerClient.generate_request_body([tensor], outputs=[output], request_id="7")
    return parse_request(body, None if length is None else str(length))


def _write_tensor(asked: InferRequest, tensor: Tensor) -> Any:
    response = render_response("m", asked, [tensor])
    length = response.headers.get(HEADER_LENGTH)
    body = bytes(response.body)
    return triton.InferenceServerClient.parse_response_body(body, header_length=length and int(length))


@pytest.mark.parametrize("binary", [True, False])
@given(array=_NUMBERS)
@settings(deadline=None)
def test_values_of_every_datatype_and_shape_make_the_round_trip(
    binary: bool, array: np.ndarray[Any, np.dtype[Any]]
) -> None:
    if array.dtype == np.float16:
        binary = True  # JSON cannot express it.
    asked = _read(array, binary=binary)
    (tensor,) = asked.inputs
    assert tensor.values.dtype == array.dtype
    back = _write_tensor(asked, Tensor("y", tensor.datatype, tensor.values)).as_numpy("y")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("binary", [True, False])
@given(texts=_TEXTS)
@settings(deadline=None)
def test_strings_make_the_round_trip(binary: bool, texts: list[str]) -> None:
    asked = _read(_object_array(texts), binary=binary)
    (tensor,) = asked.inputs
    assert [t if isinstance(t, str) else t.decode() for t in tensor.values] == texts
    back = _write_tensor(asked, Tensor("y", "BYTES", tensor.values)).as_numpy("y")
    assert [element if isinstance(element, str) else element.decode() for element in back] == texts


@given(elements=_BYTES)
@settings(deadline=None)
def test_bytes_make_the_round_trip(elements: list[bytes]) -> None:
    asked = _read(_object_array(elements), binary=True)
    assert list(_write_tensor(asked, Tensor("y", "BYTES", asked.inputs[0].values)).as_numpy("y")) == elements


def test_a_tensor_of_100_mb_is_read_without_a_copy() -> None:
    array = np.arange(25 * 2**20, dtype=np.float32).reshape(25, 1024, 1024)
    tensor = triton.InferInput("x", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    body, length = triton.InferenceServerClient.generate_request_body([tensor])
    values = parse_request(body, str(length)).inputs[0].values
    assert np.shares_memory(values, np.frombuffer(body, np.uint8))
    np.testing.assert_array_equal(values, array)


def test_bf16_is_read_as_the_float32_it_is_the_upper_half_of() -> None:
    document = {"inputs": [{"name": "x", "shape": [2], "datatype": "BF16", "parameters": {"binary_data_size": 4}}]}
    head = json.dumps(document).encode()
    raw = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    assert parse_request(head + raw, str(len(head))).inputs[0].values.tolist() == [1.5, -2.0]


def test_lists_may_be_flat_or_nested() -> None:
    flat = from_json([1, 2, 3, 4, 5, 6], "INT8", [3, 2], "data")
    nested = from_json([[1, 2], [3, 4], [5, 6]], "INT8", [3, 2], "data")
    np.testing.assert_array_equal(flat, nested)


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "said"),
    [
        ([1, 2, 3], "INT8", [2], "[2] has 2 elements, 3 given"),
        ([], "INT8", [1], "[1] has 1 elements, 0 given"),
        ([[1, 2], [3]], "INT8", [2, 2], "is not nested as the shape [2, 2] says"),
        ([[1], 2], "INT8", [2, 1], "is not nested as the shape [2, 1] says"),
        ([[[1]]], "INT8", [1, 1], "must hold whole numbers, as INT8 does"),
        ([1.0], "INT32", [1], "must hold whole numbers, as INT32 does"),
        ([True], "INT32", [1], "must hold whole numbers, as INT32 does"),
        ([1], "BOOL", [1], "must hold true or false, as BOOL does"),
        (["1"], "FP32", [1], "must hold numbers, as FP32 does"),
        ([None], "FP32", [1], "must hold numbers, as FP32 does"),
        ([1], "BYTES", [1], "must hold strings, as BYTES do in JSON"),
        ([300], "UINT8", [1], "holds a number that UINT8 cannot"),
        ([-1], "UINT64", [1], "holds a number that UINT64 cannot"),
        ([10**30], "INT64", [1], "holds a number that INT64 cannot"),
        ([1e300], "FP32", [1], "holds a number that FP32 cannot"),
        ([1.5], "FP16", [1], "FP16 has no form in JSON, send it as binary data"),
        ([1.5], "BF16", [1], "BF16 has no form in JSON, send it as binary data"),
    ],
)
def test_data_that_contradicts_shape_or_datatype_is_refused(
    data: list[Any], datatype: str, shape: list[int], said: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        from_json(data, datatype, shape, "inputs[0].data")
    assert refused.value.message == f"inputs[0].data: {said}"


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
@pytest.mark.parametrize("shape", [[0, 2**62], [0, 2**31, 2**31, 2**31], [1, 0, 2**62, 4]])
def test_an_empty_tensor_may_not_exceed_the_shape_limit_of_arrays(datatype: str, shape: list[int]) -> None:
    tensor = {"name": "x", "shape": shape, "datatype": datatype}
    empty: list[dict[str, Any]] = [{"data": []}, {"parameters": {"binary_data_size": 0}}]
    for rest in empty:
        body = json.dumps({"inputs": [{**tensor, **rest}]}).encode()
        with pytest.raises(InvalidRequest, match="is no shape of an array"):
            parse_request(body, str(len(body)))


def test_deep_nesting_is_refused_as_wrong_data() -> None:
    data: Any = 1
    for _ in range(900):
        data = [data]
    with pytest.raises(InvalidRequest, match="must hold whole numbers"):
        from_json(data, "INT8", [1], "data")


def test_values_that_json_cannot_express_need_binary_data() -> None:
    asked = parse_request(b'{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]}', None)
    with pytest.raises(InvalidRequest, match="ask for it as binary data"):
        render_response("m", asked, [Tensor("y", "FP32", np.array([np.nan], np.float32))])
    with pytest.raises(InvalidRequest, match="ask for it as binary data"):
        render_response("m", asked, [Tensor("y", "BYTES", _object_array([b"\xff"]))])


@given(body=st.binary(max_size=60), length=st.one_of(st.none(), st.integers(-2, 70).map(str), st.text(max_size=5)))
def test_arbitrary_bytes_are_read_or_refused(body: bytes, length: str | None) -> None:
    with pytest.raises(InvalidRequest):
        parse_request(body, length)


@given(tail=st.binary(max_size=40), size=st.integers(0, 50), shape=st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_arbitrary_binary_tensors_are_read_or_refused(tail: bytes, size: int, shape: list[int]) -> None:
    for datatype in ("BYTES", "FP32", "BF16", "BOOL"):
        parameters = {"binary_data_size": size}
        head = {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "parameters": parameters}]}
        encoded = json.dumps(head).encode()
        try:
            asked = parse_request(encoded + tail, str(len(encoded)))
        except InvalidRequest:
            continue
        assert list(asked.inputs[0].values.shape) == shape
