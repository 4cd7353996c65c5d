"""Promise: CloudEvents are answered in their own mode, and errors name the attribute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from starlette.testclient import TestClient

from hf_runtime.api.app import create_app
from hf_runtime.api.inference import Models
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ServerSettings
from tests.hf_runtime.api.scripted_client import ScriptedClient

PATH = "/v1/models/x:predict"
ATTRIBUTES = {"id": "36077800", "source": "com.example/ä", "type": "com.example.text", "traceid": "a%b c"}
DATA = {"instances": ["a"], "parameters": {"top_k": 2}}
ANSWER = {"predictions": [["a", {"top_k": 2}]]}

MODES = pytest.mark.parametrize("write", [to_structured_event, to_binary_event])
Write = Callable[[CloudEvent], HTTPMessage]


@contextmanager
def _serving(**settings: Any) -> Iterator[TestClient]:
    @asynccontextmanager
    async def nothing(_: Any) -> Any:
        yield

    models = Models({"x": ScriptedClient("x", ModelState("ready"))})
    with TestClient(create_app(models, ServerSettings(**settings), nothing), raise_server_exceptions=False) as http:
        yield http


@pytest.fixture
def http() -> Iterator[TestClient]:
    with _serving(MAX_BODY_SIZE=10_000, MAX_INSTANCES=5) as client:
        yield client


def _post(http: TestClient, message: HTTPMessage, **headers: str) -> Any:
    return http.post(PATH, content=message.body, headers={**message.headers, **headers})


def _event(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return from_http_event(HTTPMessage(dict(response.headers), response.content))


@MODES
def test_an_event_is_answered_with_an_event_of_the_same_mode(http: TestClient, write: Write) -> None:
    before = datetime.now(UTC)
    response = _post(http, write(CloudEvent({**ATTRIBUTES, "datacontenttype": "application/json"}, DATA)))
    structured = write is to_structured_event
    assert response.headers["content-type"] == ("application/cloudevents+json" if structured else "application/json")
    assert ("ce-id" in response.headers) != structured
    event = _event(response)
    assert event.get_type() == "io.kserve.inference.response"
    assert event.get_source() == "io.kserve.inference.x"
    assert event.get_specversion() == "1.0"
    assert event.get_id() not in ("", ATTRIBUTES["id"])
    assert before <= event.get_time() <= datetime.now(UTC)
    assert event.get_extension("traceid") is None
    assert event.get_data() == ANSWER
    assert _event(_post(http, write(CloudEvent(dict(ATTRIBUTES), DATA)))).get_id() != event.get_id()


@MODES
def test_arrays_are_answered_as_nested_lists(http: TestClient, write: Write) -> None:
    event = _event(_post(http, write(CloudEvent(dict(ATTRIBUTES), {"instances": ["array"]}))))
    assert np.array(event.get_data()["predictions"]).tolist() == [[[0.5, 1.5]]]


@pytest.mark.parametrize(
    ("write", "content_type"),
    [
        (to_structured_event, "application/cloudevents+json; charset=utf-8"),
        (to_structured_event, "Application/CloudEvents+JSON;charset=UTF-8"),
        (to_binary_event, "application/json; charset=utf-8"),
        (to_binary_event, "application/json"),
    ],
)
def test_the_content_type_may_name_the_charset(http: TestClient, write: Write, content_type: str) -> None:
    message = write(CloudEvent(dict(ATTRIBUTES), DATA))
    assert _event(_post(http, message, **{"content-type": content_type})).get_data() == ANSWER


def test_a_structured_event_may_repeat_its_attributes_in_headers(http: TestClient) -> None:
    message = to_structured_event(CloudEvent(dict(ATTRIBUTES), DATA))
    response = _post(http, message, **{"ce-id": "1", "ce-type": "other"})
    assert response.headers["content-type"] == "application/cloudevents+json"
    assert _event(response).get_data() == ANSWER


def test_headers_that_only_resemble_attributes_make_no_event(http: TestClient) -> None:
    response = http.post(PATH, json=DATA, headers={"ce-trace": "1", "content-type": "application/json"})
    assert response.json() == ANSWER
    assert "ce-id" not in response.headers


@MODES
def test_answers_have_the_configured_type_and_source_and_merged_attributes(write: Write) -> None:
    asked = CloudEvent({**ATTRIBUTES, "subject": "s", "time": datetime(2020, 1, 1, tzinfo=UTC)}, DATA)
    with _serving(CE_MERGE=True, CE_TYPE="com.example.answer", CE_SOURCE="com.example/models") as http:
        event = _event(_post(http, write(asked)))
    assert (event.get_type(), event.get_source()) == ("com.example.answer", "com.example/models")
    assert (event.get_subject(), event.get_extension("traceid")) == ("s", ATTRIBUTES["traceid"])
    assert event.get_id() != asked.get_id()
    assert event.get_time().year > 2020
    assert event.get_data() == ANSWER


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"id": None}, "id: is missing"),
        ({"source": None}, "source: is missing"),
        ({"type": None}, "type: is missing"),
        ({"specversion": None}, "specversion: is missing"),
        ({"specversion": "0.3"}, "specversion: "),
        ({"specversion": 1.0}, "specversion: must be a string"),
        ({"id": ""}, "id: "),
        ({"time": "yesterday"}, "time: must be a time"),
        ({"time": "2024-01-01T00:00:00"}, "time: Attribute 'time' must be timezone aware"),
        ({"subject": ""}, "subject: "),
        ({"Upper_case": "x"}, "Upper_case: "),
        ({"extension": {"nested": 1}}, "extension: must be a string"),
        ({"data": None}, "data: must be a JSON object"),
        ({"data": '{"instances": ["a"]}'}, "data: must be a JSON object"),
        ({"data": {"instances": "a"}}, "instances: must be a list"),
        ({"data": {"inputs": ["a"], "more": 1}}, "more: unknown field"),
        ({"data": None, "data_base64": "e30="}, "data_base64: is not read"),
        ({"data": {"instances": ["a"], "parameters": {"stream": True}}}, "parameters.stream: "),
        ({"data": {"instances": ["a", "wrong"]}}, "instances[1]: must be right"),
    ],
)
def test_a_wrong_attribute_of_a_structured_event_is_a_plain_400_that_names_it(
    http: TestClient, fields: dict[str, Any], named: str
) -> None:
    event = {**ATTRIBUTES, "specversion": "1.0", "data": DATA, **fields}
    if fields.get("data", DATA) is None:
        del event["data"]
    response = http.post(PATH, content=orjson.dumps(event), headers={"content-type": "application/cloudevents+json"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(named)


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"ce-source": None}, "source: is missing"),
        ({"ce-specversion": "2.0"}, "specversion: "),
        ({"ce-time": "now"}, "time: must be a time"),
        ({"ce-data_base64": "e30="}, "data_base64: "),
        ({"ce-": "x"}, ": "),
    ],
)
def test_a_wrong_attribute_in_headers_is_a_plain_400_that_names_it(
    http: TestClient, headers: dict[str, str | None], named: str
) -> None:
    message = to_binary_event(CloudEvent(dict(ATTRIBUTES), DATA))
    given = {name: value for name, value in {**message.headers, **headers}.items() if value is not None}
    response = http.post(PATH, content=message.body, headers=given)
    assert response.status_code == 400
    assert response.json()["error"].startswith(named)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id": NaN}', b'"\xff"', b"[" * 3000 + b"]" * 3000])
@MODES
def test_a_body_that_is_no_json_object_is_a_400(http: TestClient, write: Write, body: bytes) -> None:
    message = write(CloudEvent(dict(ATTRIBUTES), DATA))
    response = _post(http, HTTPMessage(message.headers, body))
    assert response.status_code == 400
    assert "Unrecognized request format" in response.json()["error"]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents-batch+json",
        "application/cloudevents+xml",
        "application/cloudevents",
        "application/cloudevents+json; charset=utf-16",
    ],
)
def test_batches_and_other_formats_are_a_415_that_names_the_accepted_format(
    http: TestClient, content_type: str
) -> None:
    response = http.post(PATH, content=b"[]", headers={"content-type": content_type})
    assert response.status_code == 415
    assert content_type in response.json()["error"]
    assert "application/cloudevents+json" in response.json()["error"]


_NAMES = st.sampled_from(["id", "source", "type", "specversion", "time", "datacontenttype", "subject", "ext", "data"])
_LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e300, 1e300) | st.text(max_size=5)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3), max_leaves=6
)
_HEADER = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=8)


@pytest.fixture(params=[False, True], ids=["alone", "merged"])
def merging(request: Any) -> AbstractContextManager[TestClient]:
    return _serving(CE_MERGE=request.param)


def _is_answered_or_refused(response: Any) -> None:
    assert response.status_code in (200, 400), response.text
    if response.status_code == 200:
        assert _event(response).get_data() == ANSWER
    else:
        assert list(response.json()) == ["error"]


def test_no_structured_event_is_a_5xx(merging: AbstractContextManager[TestClient]) -> None:
    with merging as http:

        @hypothesis_settings(max_examples=200, deadline=None)
        @given(st.dictionaries(_NAMES | st.text(max_size=4), _VALUES, max_size=3))
        def check(fields: dict[str, Any]) -> None:
            body = orjson.dumps({**ATTRIBUTES, "specversion": "1.0", "data": DATA, **fields})
            headers = {"content-type": "application/cloudevents+json"}
            _is_answered_or_refused(http.post(PATH, content=body, headers=headers))

        check()


def test_no_binary_event_is_a_5xx(merging: AbstractContextManager[TestClient]) -> None:
    with merging as http:
        base = to_binary_event(CloudEvent(dict(ATTRIBUTES), DATA))

        @hypothesis_settings(max_examples=200, deadline=None)
        @given(st.dictionaries(_NAMES.map("ce-{}".format), _HEADER | st.just("%ff%0d%0a%00"), max_size=3))
        def check(headers: dict[str, str]) -> None:
            raw = {**base.headers, **headers}
            response = http.post(
                PATH, content=base.body, headers=[(k.encode(), v.encode("latin-1")) for k, v in raw.items()]
            )
            _is_answered_or_refused(response)

        check()
