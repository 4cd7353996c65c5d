"""Promise: streams on a real server are complete, end, and free their slot when cancelled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.text_generation import TextGenerationRunner
from tests.e2e.server import Server, serving
from tests.tiny import CORPUS, llama_model

pytestmark = pytest.mark.xdist_group("streaming")

#: Long enough for a stream that must still be running when the test checks it.
LONG = {"max_new_tokens": 100_000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("streaming"), context=200_000)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(STORAGE_URI=str(folder), TASK="text-generation", KV_CACHE_MEMORY="32MiB") as server:
        yield server


@pytest.fixture(scope="module")
def mortal(folder: Path) -> Iterator[Server]:
    """Serve a model whose runner is killed and which is then stopped, in this order."""
    with serving(STORAGE_URI=str(folder), TASK="text-generation") as server:
        yield server


def _post(server: Server, instances: list[Any], **parameters: Any) -> requests.Response:
    body = {"instances": instances, "parameters": parameters}
    return requests.post(f"{server.url}/v1/models/model:predict", json=body, stream=True, timeout=60)


def _lines(response: requests.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.iter_lines() if line]


def test_the_seeds_streaming_client(server: Server) -> None:
    # The seed's code unchanged, except for the address.
    def stream_generate(prompt: str, url: str) -> Iterator[Any]:
        data = {"instances": [prompt], "parameters": {"max_length": 100, "stream": True}}
        response = requests.post(url + "/v1/models/model:predict", json=data, stream=True)
        for line in response.iter_lines():
            if line:
                yield json.loads(line)

    chunks = list(stream_generate("The future of artificial intelligence is", server.url))
    whole = _post(server, ["The future of artificial intelligence is"], max_length=100, return_full_text=False)
    assert "".join(chunk["generated_text"] for chunk in chunks) == whole.json()["predictions"][0][0]["generated_text"]
    assert {chunk["index"] for chunk in chunks} == {0}
    assert [chunk.get("finish_reason") for chunk in chunks][:-1] == [None] * (len(chunks) - 1)
    assert chunks[-1]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["prompt_tokens"] + chunks[-1]["generated_tokens"] <= 100


def test_instances_of_one_stream_interleave_each_with_its_own_text(server: Server, folder: Path) -> None:
    oracle = TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text-generation"))
    oracle.load()
    options = {"max_new_tokens": 40, "return_full_text": False, "ignore_eos": True}
    expected = [answer[0]["generated_text"] for answer in oracle.predict([Item(text, options) for text in CORPUS])]
    lines = _lines(_post(server, CORPUS, max_new_tokens=40, ignore_eos=True, stream=True))
    for index, text in enumerate(expected):
        assert "".join(line["generated_text"] for line in lines if line["index"] == index) == text
    ends = [place for place, line in enumerate(lines) if "finish_reason" in line]
    starts = [next(place for place, line in enumerate(lines) if line["index"] == i) for i in range(len(CORPUS))]
    assert len(ends) == len(CORPUS)
    assert max(starts) < min(ends)


def test_server_sent_events_carry_the_same_objects_as_lines(server: Server) -> None:
    body = {"instances": ["Paris"], "parameters": {"max_new_tokens": 9, "stream": True}}
    url = f"{server.url}/v1/models/model:predict"
    response = requests.post(url, json=body, headers={"Accept": "text/event-stream"}, timeout=60)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events.pop() == ""
    lines = _lines(_post(server, ["Paris"], max_new_tokens=9, stream=True))
    assert [json.loads(event.removeprefix("data: ")) for event in events] == lines


def test_a_stream_that_cannot_begin_has_the_status_of_its_error(server: Server) -> None:
    for instances, parameters, named in (
        (["Paris", 7], {}, "instances[1]: must be a string"),
        (["Paris"], {"max_new_tokens": 0}, "parameters.max_new_tokens"),
        (["Paris"], {"max_new_tokens": 150_000}, "KV_CACHE_MEMORY"),
    ):
        response = _post(server, instances, stream=True, **parameters)
        assert response.status_code == 400
        assert named in response.json()["error"]
    response = _post(server, ["Paris"], stream="yes")
    assert (response.status_code, response.json()["error"]) == (400, "parameters.stream: must be true or false")


def test_two_hundred_dropped_streams_free_their_slots_immediately(server: Server) -> None:
    with ExitStack() as streams, ThreadPoolExecutor(50) as pool:

        def start(number: int) -> requests.Response:
            return streams.enter_context(_post(server, [f"{CORPUS[number % 5]} {number}"], **LONG))

        responses = list(pool.map(start, range(200)))
        assert all(response.status_code == 200 for response in responses)
        assert json.loads(next(responses[0].iter_lines()))["index"] == 0
    (line,) = _lines(_post(server, ["fresh"], max_new_tokens=1, ignore_eos=True, stream=True))[-1:]
    assert line["finish_reason"] == "length"


def test_the_time_to_the_first_token_and_between_tokens_are_metrics(mortal: Server) -> None:
    # On a server of its own, because other tests' dropped streams may still be counted.
    _lines(_post(mortal, ["Paris", "Berlin"], max_new_tokens=7, ignore_eos=True, stream=True))
    text = requests.get(f"{mortal.url}/metrics", timeout=10).text
    counts = dict(re.findall(r'^(\w+_seconds_count)\{model_name="model"\} ([\d.]+)$', text, re.MULTILINE))
    assert float(counts["time_to_first_token_seconds_count"]) == 2
    assert float(counts["inter_token_latency_seconds_count"]) == 12


def test_a_stream_whose_runner_dies_ends_in_an_error_and_the_next_is_served(mortal: Server) -> None:
    response = _post(mortal, ["Paris", "Berlin"], **LONG)
    lines = response.iter_lines()
    assert next(lines)
    (runner,) = mortal.runner_processes()
    runner.kill()
    *_, one, other = [json.loads(line) for line in lines if line]
    assert {one["index"], other["index"]} == {0, 1}
    assert {one["finish_reason"], other["finish_reason"]} == {"error"}
    assert "stopped" in one["error"]
    mortal.wait_for("Model model is ready after", times=2)
    mortal.wait_until_all_answer(200)
    (line,) = _lines(_post(mortal, ["Paris"], max_new_tokens=1, ignore_eos=True, stream=True))[-1:]
    assert line["finish_reason"] == "length"


def test_streams_end_before_the_server_ends(mortal: Server) -> None:
    response = _post(mortal, ["Paris"], max_new_tokens=400, ignore_eos=True, stream=True)
    lines = response.iter_lines()
    first = json.loads(next(lines))
    mortal.terminate()
    last = [first, *(json.loads(line) for line in lines if line)][-1]
    assert (last["finish_reason"], last["generated_tokens"]) == ("length", 400)
    mortal.wait_ended()
