"""Promise: no tensors and no generate requests of any kind are answered with a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.checkpoints import CHECKPOINTS
from tests.e2e.server import Server

pytestmark = pytest.mark.xdist_group("seven")

_NAMES = st.sampled_from(["text", "text_pair", "question", "context", "input_ids", "input-0", ""])
_TEXTS = st.sampled_from(["", "hello", "the " * 90, "a [MASK]", "🙂\0", '{"question": "Who?", "context": "Me."}', "[]"])
_NUMBERS = st.sampled_from([0, 1, 2, 5, -1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, True])
_OUTPUTS = st.sampled_from(["output-0", "label", "score", "attention_mask", "nothing"])
_VALUES = st.sampled_from([None, True, 0, 1, 3, -1, 0.5, 10**20, "", "mean", "none", [], ["a"], {}, {"a": 1}])
_PARAMETERS = st.dictionaries(
    st.sampled_from(
        [
            *("top_k", "pooling", "details", "truncation", "stream", "max_new_tokens", "max_tokens", "stop", "seed"),
            *("temperature", "logprobs", "return_full_text", "num_return_sequences", "binary_data_output", "unknown"),
        ]
    ),
    _VALUES,
    max_size=3,
)
_TENSOR_PARAMETERS = st.none() | st.dictionaries(
    st.sampled_from(["content_type", "binary_data_size", "binary_data", "unknown"]),
    st.sampled_from(["json", "str", 0, 3, True, None]),
    max_size=2,
)


@st.composite
def _tensors(draw: st.DrawFn) -> dict[str, Any]:
    datatype = draw(st.sampled_from(["BYTES", "BYTES", "INT64", "INT32", "UINT8", "FP32", "FP16", "BOOL", "TEXT"]))
    elements = _TEXTS if datatype == "BYTES" else _NUMBERS
    data = draw(st.lists(elements, max_size=4) | st.lists(st.lists(elements, min_size=1, max_size=2), max_size=3))
    fitting = [len(data), *([len(data[0])] if data and isinstance(data[0], list) else [])]
    shape = draw(st.just(fitting) | st.just([*fitting, 1]) | st.lists(st.integers(-1, 3), max_size=3))
    tensor = {"name": draw(_NAMES), "datatype": datatype, "shape": shape, "data": data}
    parameters = draw(_TENSOR_PARAMETERS)
    return tensor if parameters is None else {**tensor, "parameters": parameters}


_INFER = st.fixed_dictionaries(
    {"inputs": st.lists(_tensors(), max_size=3)},
    optional={
        "id": st.sampled_from(["", "42", 1]),
        "parameters": _PARAMETERS,
        "outputs": st.lists(st.fixed_dictionaries({"name": _OUTPUTS}), max_size=3),
    },
)
_GENERATE: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"text_input": _TEXTS | st.sampled_from([None, 1, []])}, optional={"parameters": _PARAMETERS}
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    task=st.sampled_from(list(CHECKPOINTS)),
    asked=_INFER.map(lambda body: ("infer", body))
    | st.tuples(st.sampled_from(["generate", "generate_stream"]), _GENERATE),
)
def test_no_request_is_answered_with_a_5xx(seven_server: Server, task: str, asked: tuple[str, Any]) -> None:
    verb, body = asked
    response = requests.post(f"{seven_server.url}/v2/models/{task}/{verb}", json=body, timeout=60)
    assert response.status_code in (200, 400), f"{task} {verb} {body}: {response.text}"
    if response.status_code == 400:
        assert response.json()["error"]
