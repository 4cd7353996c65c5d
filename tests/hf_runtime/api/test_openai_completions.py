"""Promise: OpenAI's own client gets completions as from OpenAI."""

from __future__ import annotations

from typing import Any

import pytest
from openai import APIError

from hf_runtime.contract.errors import InferenceFailed
from tests.hf_runtime.api.openai_server import Server, generated_result, token

DEFAULTS = {
    "details": True, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 16,
    "return_full_text": False,
}  # fmt: skip


def test_a_prompt_is_one_item_with_the_defaults_of_openai(server: Server) -> None:
    server.openai.completions.create(model="writer", prompt="Once")
    assert server.writer.submitted == [("Once", DEFAULTS)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_tokens": 5}, {"max_new_tokens": 5}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"stop": "\n"}, {"stop": ["\n"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"presence_penalty": 1, "frequency_penalty": -0.5}, {"presence_penalty": 1.0, "frequency_penalty": -0.5}),
        ({"logit_bias": {"50256": -100}}, {"logit_bias": {"50256": -100.0}}),
        ({"logprobs": 0}, {"logprobs": 0}),
        ({"logprobs": 5}, {"logprobs": 5}),
        ({"echo": True}, {"return_full_text": True}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": -1}, {"seed": 2**63 - 1}),
        ({"extra_body": {"top_k": 40}}, {"top_k": 40}),
        ({"extra_body": {"top_k": -1}}, {"top_k": 0}),
        ({"extra_body": {"repetition_penalty": 1.1}}, {"repetition_penalty": 1.1}),
        ({"extra_body": {"min_tokens": 3}}, {"min_new_tokens": 3}),
        ({"extra_body": {"ignore_eos": True}}, {"ignore_eos": True}),
        ({"extra_body": {"truncation": True}}, {"truncation": True}),
        ({"best_of": 1, "user": "me"}, {}),
        ({"extra_body": {"n": None, "temperature": None, "logit_bias": None, "suffix": None, "stream": None}}, {}),
    ],
)
def test_fields_reach_the_model_under_its_own_names(server: Server, given: Any, told: Any) -> None:
    server.openai.completions.create(model="writer", prompt="Once", **given)
    assert server.writer.parameters == [{**DEFAULTS, **told}]


@pytest.mark.parametrize("given", [{"temperature": 0}, {"top_p": 0}, {"temperature": 0, "top_p": 0.5, "seed": 3}])
def test_without_temperature_or_probability_decoding_is_greedy(server: Server, given: Any) -> None:
    server.openai.completions.create(model="writer", prompt="Once", **given)
    assert server.writer.parameters == [
        {"details": True, "do_sample": False, "max_new_tokens": 16, "return_full_text": False}
    ]


@pytest.mark.parametrize(
    ("prompt", "instances"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompts_are_strings_or_tokens_one_or_many(server: Server, prompt: Any, instances: Any) -> None:
    answer = server.openai.completions.create(model="writer", prompt=prompt)
    assert server.writer.instances == instances
    assert [choice.index for choice in answer.choices] == list(range(len(instances)))


def test_an_answer_is_a_completion_object(server: Server) -> None:
    server.writer.script = lambda _: [generated_result(" upon a time", "length", prompt=1, generated=3)]
    answer = server.http.post("/openai/v1/completions", json={"model": "writer", "prompt": "Once"}).json()
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "text_completion",
        "model": "writer",
        "choices": [{"index": 0, "text": " upon a time", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
        "system_fingerprint": None,
    }


def test_choices_of_a_prompt_are_adjacent_differ_in_seed_and_count_their_prompt_once(server: Server) -> None:
    server.writer.script = lambda index: [
        generated_result(str(index), prompt=10 + index // 2, generated=index, cached_tokens=4 * (index % 2))
    ]
    answer = server.openai.completions.create(model="writer", prompt=["a", "b"], n=2, seed=5)
    assert server.writer.instances == ["a", "a", "b", "b"]
    assert [parameters["seed"] for parameters in server.writer.parameters] == [5, 6, 5, 6]
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "0"), (1, "1"), (2, "2"), (3, "3")]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (21, 6, 27)
    assert answer.usage.prompt_tokens_details is not None
    # The second choice finds in the cache only the prefix that the first one stored.
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_logprobs_name_every_token_its_alternatives_and_its_offset(server: Server) -> None:
    tokens = [
        token("Hé", -0.5, ("Hé", -0.5), ("Ha", -1.5)),
        token("\ufffd", -1.0, ("!", -0.25), raw=b"\xf0\x9f"),
        token("\ufffd", float("-inf"), raw=b"\x99\x82"),
        token(".", -2.0),
    ]
    server.writer.script = lambda _: [generated_result("Hé🙂.", logprobs=tokens)]
    answer = server.openai.completions.create(model="writer", prompt="a", logprobs=2)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.to_dict() == {
        "tokens": ["Hé", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82", "."],
        "token_logprobs": [-0.5, -1.0, -9999.0, -2.0],
        "top_logprobs": [
            {"Hé": -0.5, "Ha": -1.5},
            {"!": -0.25, "bytes:\\xf0\\x9f": -1.0},
            {"bytes:\\x99\\x82": -9999.0},
            {".": -2.0},
        ],
        "text_offset": [0, 2, 2, 3],
    }


def test_the_deltas_of_a_stream_join_to_the_same_completion(server: Server) -> None:
    server.writer.script = lambda index: [
        {"generated_text": "one", "logprobs": [token("one", -1.0)]},
        {"generated_text": ""},
        generated_result(" two", "length", logprobs=[token(" two", -2.0)]),
    ]
    chunks = list(server.openai.completions.create(model="writer", prompt=["a", "b"], logprobs=0, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert {(chunk.object, chunk.model, chunk.usage) for chunk in chunks} == {("text_completion", "writer", None)}
    choices = [chunk.choices[0] for chunk in chunks]
    for index in (0, 1):
        mine = [choice for choice in choices if choice.index == index]
        assert [(choice.text, choice.finish_reason) for choice in mine] == [("one", None), (" two", "length")]
        assert [choice.logprobs.text_offset for choice in mine if choice.logprobs] == [[0], [3]]


def test_a_stream_reports_its_usage_at_the_end_on_request(server: Server) -> None:
    server.writer.script = lambda _: [
        {"generated_text": "a"},
        generated_result("", prompt=4, generated=1, cached_tokens=2),
    ]
    body = {"model": "writer", "prompt": ["x", "y"], "stream_options": {"include_usage": True}}
    *chunks, last = server.events("completions", **body)
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4},
    }  # fmt: skip
    assert all("usage" not in chunk for chunk in server.events("completions", model="writer", prompt="x"))


def test_a_choice_that_fails_in_a_stream_is_an_error_event_and_the_others_continue(server: Server) -> None:
    failure = InferenceFailed("the model failed; its log has the details")
    server.writer.script = lambda index: [{"generated_text": "a"}, failure if index == 0 else generated_result("b")]
    events = server.events("completions", model="writer", prompt="x", n=2)
    assert [event for event in events if "error" in event] == [
        {
            "error": {
                "message": "the model failed; its log has the details",
                "type": "server_error",
                "param": None,
                "code": None,
            }
        }
    ]
    others = [event["choices"][0] for event in events if "error" not in event and event["choices"][0]["index"] == 1]
    assert [choice["text"] for choice in others] == ["a", "b"]
    server.writer.script = lambda _: [{"generated_text": "a"}, failure]
    with pytest.raises(APIError, match="the model failed"):
        list(server.openai.completions.create(model="writer", prompt="x", stream=True))


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": None}, "prompt", "prompt: Field required"),
        ({"prompt": 5}, "prompt", "must be a string"),
        ({"prompt": []}, "prompt", "must not be empty"),
        ({"prompt": ["a", 5]}, "prompt", "element 1"),
        ({"prompt": [True]}, "prompt", "element 0"),
        ({"prompt": [[]]}, "prompt", "element 0"),
        ({"model": 5}, "model", "model: Input should be a valid string"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2 (given: 2.5)"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"top_p": 1.1}, "top_p", "less than or equal to 1"),
        ({"presence_penalty": 3}, "presence_penalty", "less than or equal to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty", "greater than or equal to -2"),
        ({"logit_bias": {"dog": 1}}, "logit_bias.dog", "match pattern"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"stop": [5]}, "stop[0]", "valid string"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"logprobs": True}, "logprobs", "valid integer"),
        ({"best_of": 2}, "best_of", "best_of: "),
        ({"suffix": "x"}, "suffix", "suffix: not supported"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed when stream is true"),
        ({"stream": "yes"}, "stream", "valid boolean"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(server: Server, fields: Any, param: str, message: str) -> None:
    response = server.http.post("/openai/v1/completions", json={"model": "writer", "prompt": "a", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]
    assert server.writer.submitted == []
