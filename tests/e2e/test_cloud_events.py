"""Promise: a real server answers the CloudEvents library's own client in both modes."""

from __future__ import annotations

from pathlib import Path

import requests
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.e2e import checkpoints
from tests.e2e.server import serving


def test_events_are_answered_with_events_that_hold_the_predictions(tmp_path: Path) -> None:
    folder = checkpoints.feature_extraction(tmp_path / "model")
    with serving(STORAGE_URI=str(folder), TASK="feature-extraction", CE_TYPE="com.example.embedded") as server:
        url = f"{server.url}/v1/models/model:predict"
        data = {"instances": ["good", "bad"]}
        expected = requests.post(url, json=data, timeout=60).json()
        for write in (to_structured_event, to_binary_event):
            message = write(CloudEvent({"type": "com.example.texts", "source": "com.example"}, data))
            response = requests.post(url, data=message.body, headers=message.headers, timeout=60)
            assert response.status_code == 200, response.text
            event = from_http_event(HTTPMessage(dict(response.headers), response.content))
            assert (event.get_type(), event.get_source()) == ("com.example.embedded", "io.kserve.inference.model")
            assert event.get_data() == expected
