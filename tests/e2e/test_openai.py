"""Promise: OpenAI's official client gets each requested feature from a real server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import yaml

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.text_generation import TextGenerationRunner
from tests.e2e.checkpoints import feature_extraction, text2text_generation
from tests.e2e.server import serving
from tests.tiny import CORPUS, llama_model

pytestmark = pytest.mark.xdist_group("openai")

CHAT: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello world"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openai")
    llama_model(folder / "text-generation", context=4096)
    feature_extraction(folder / "feature-extraction")
    text2text_generation(folder / "text2text-generation")
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[openai.OpenAI]:
    documents = [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": path.name},
            "spec": {
                "predictor": {"huggingface": {"storageUri": str(path), "env": [{"name": "TASK", "value": path.name}]}}
            },
        }
        for path in sorted(folder.iterdir())
    ]
    config = folder.parent / "openai.yaml"
    config.write_text(yaml.safe_dump_all(documents))
    with serving(models=len(documents), RUNTIME_CONFIG=str(config)) as server:
        yield openai.OpenAI(base_url=f"{server.url}/openai/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def runner(folder: Path) -> TextGenerationRunner:
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder / "text-generation"), task="text-generation"))
    runner.load()
    return runner


def _expected(runner: TextGenerationRunner, instance: Any, **parameters: Any) -> Any:
    (answer,) = runner.predict([Item(instance, {"return_full_text": False, "details": True, **parameters})])
    return answer[0]


def test_a_completion_is_the_runners_text(client: openai.OpenAI, runner: TextGenerationRunner) -> None:
    prompts = ["Paris is", "The future"]
    answer = client.completions.create(model="text-generation", prompt=prompts, temperature=0, max_tokens=9)
    assert [choice.text for choice in answer.choices] == [
        _expected(runner, prompt, max_new_tokens=9)["generated_text"] for prompt in prompts
    ]
    tokens = runner.generator.tokenizer(prompts)["input_ids"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, tokens))
    by_tokens = client.completions.create(model="text-generation", prompt=tokens, temperature=0, max_tokens=9)
    assert [choice.text for choice in by_tokens.choices] == [choice.text for choice in answer.choices]


def test_choices_use_consecutive_seeds_and_share_one_prefill(
    client: openai.OpenAI, runner: TextGenerationRunner
) -> None:
    prompt = " ".join(CORPUS)
    answer = client.completions.create(
        model="text-generation", prompt=prompt, n=3, seed=7, temperature=1.5, max_tokens=12
    )
    given = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": 12}
    expected = [_expected(runner, prompt, seed=7 + i, **given)["generated_text"] for i in range(3)]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 36


def test_a_chat_is_answered_by_its_template_streamed_and_whole(
    client: openai.OpenAI, runner: TextGenerationRunner
) -> None:
    options: dict[str, Any] = {"model": "text-generation", "messages": CHAT, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**options)
    expected = _expected(runner, CHAT, max_new_tokens=20)
    assert whole.choices[0].message.content == expected["generated_text"]
    assert whole.choices[0].finish_reason == expected["finish_reason"]
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == expected["generated_text"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == expected["generated_tokens"]


def test_without_a_maximum_a_chat_fills_the_context(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "text-generation", "messages": CHAT, "temperature": 0}
    answer = client.chat.completions.create(**options, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.total_tokens == 4096
    assert answer.choices[0].finish_reason == "length"


def test_penalties_bias_and_stop_strings_change_the_text(client: openai.OpenAI, runner: TextGenerationRunner) -> None:
    options: dict[str, Any] = {"model": "text-generation", "prompt": "Paris", "temperature": 0, "max_tokens": 40}
    plain = client.completions.create(**options).choices[0].text
    tokens = runner.generator.tokenizer(plain)["input_ids"]
    assert len(set(tokens)) < len(tokens)
    penalized = client.completions.create(**options, frequency_penalty=2, presence_penalty=2).choices[0].text
    assert penalized != plain
    assert penalized == _expected(
        runner, "Paris", max_new_tokens=40, frequency_penalty=2.0, presence_penalty=2.0
    )["generated_text"]  # fmt: skip
    first = _expected(runner, "Paris", max_new_tokens=1, logprobs=0)["logprobs"][0]["id"]
    banned = client.completions.create(**options, logit_bias={str(first): -100}).choices[0].text
    assert banned != plain
    forced = client.completions.create(**{**options, "max_tokens": 3}, logit_bias={"65": 100}).choices[0].text
    assert forced == runner.generator.tokenizer.decode([65] * 3)
    stopped = client.completions.create(**options, stop=[plain[6:9]]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (plain[: plain.index(plain[6:9])], "stop")


def test_logprobs_are_those_of_the_model(client: openai.OpenAI, runner: TextGenerationRunner) -> None:
    answer = client.chat.completions.create(
        model="text-generation", messages=CHAT, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    for entry in logprobs.content:
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob)
        assert len(entry.top_logprobs) == 3
        assert sum(np.exp(other.logprob) for other in entry.top_logprobs) <= 1 + 1e-5
    spelled = b"".join(bytes(entry.bytes or []) for entry in logprobs.content)
    assert spelled.decode(errors="replace") == answer.choices[0].message.content


def test_an_answer_follows_the_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "kind": {"enum": ["city", "river"]}},
        "required": ["name", "kind"],
        "additionalProperties": False,
    }
    given: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    with ThreadPoolExecutor(4) as pool:

        def ask(seed: int) -> Any:
            answer = client.chat.completions.create(
                model="text-generation", messages=CHAT, response_format=given, seed=seed, temperature=1, max_tokens=200
            )
            assert answer.choices[0].finish_reason == "stop"
            return json.loads(answer.choices[0].message.content or "")

        for answer in pool.map(ask, range(6)):
            assert set(answer) == {"name", "kind"}
            assert answer["kind"] in ("city", "river")
            assert len(answer["name"]) <= 8


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Tells about a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Berlin"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "population")
]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "population"}),
        ({"type": "function", "function": {"name": "population"}}, {"population"}),
    ],
)
def test_a_tool_is_called_with_valid_arguments_streamed_and_whole(
    client: openai.OpenAI, choice: Any, names: set[str]
) -> None:
    options: dict[str, Any] = {
        "model": "text-generation", "messages": CHAT, "tools": TOOLS, "tool_choice": choice, "seed": 1,
        "parallel_tool_calls": False,
    }  # fmt: skip
    choice = client.chat.completions.create(**options).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name in names
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Berlin")
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**options, stream=True)]
    (delta,) = [chunk.delta.tool_calls[0] for chunk in chunks if chunk.delta.tool_calls]
    assert (delta.function.name, delta.function.arguments) == (call.function.name, call.function.arguments)
    assert chunks[-1].finish_reason == "tool_calls"
    # The client sends the call and its result back and continues the chat.
    history = [*CHAT, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "fine"}]
    again = client.chat.completions.create(model="text-generation", messages=history, max_tokens=4, tools=TOOLS)
    assert again.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_a_tool_need_not_be_called(client: openai.OpenAI) -> None:
    for tool_choice in ("auto", "none"):
        options: dict[str, Any] = {"model": "text-generation", "messages": CHAT, "tools": TOOLS, "max_tokens": 8}
        choice = client.chat.completions.create(**options, tool_choice=tool_choice, temperature=0).choices[0]
        assert choice.message.content
        assert not choice.message.tool_calls


def test_json_mode_gives_an_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="text-generation", messages=CHAT, response_format={"type": "json_object"}, seed=3, max_tokens=600,
        frequency_penalty=1,
    )  # fmt: skip
    content = answer.choices[0].message.content or ""
    assert content.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


def test_embeddings_are_the_same_as_floats_and_as_base64(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="feature-extraction", input=CORPUS[:3], encoding_format="float")
    packed = client.embeddings.create(model="feature-extraction", input=CORPUS[:3], encoding_format="base64")
    for one, other in zip(answer.data, packed.data, strict=True):
        vector = np.frombuffer(base64.b64decode(str(other.embedding)), dtype="<f4")
        assert one.embedding == pytest.approx(vector.tolist(), abs=1e-6)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert answer.usage.prompt_tokens > 3
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="feature-extraction", input="a", dimensions=8)
    assert refused.value.param == "dimensions"


def test_an_encoder_decoder_completes_too(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "text2text-generation", "prompt": CORPUS[0], "temperature": 0}
    whole = client.completions.create(**options).choices[0].text
    assert whole
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**options, stream=True)) == whole


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {
        "feature-extraction", "text-generation", "text2text-generation",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "param"),
    [
        ({"prompt": "word " * 5000}, openai.BadRequestError, "prompt"),
        ({"prompt": "a", "max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"prompt": "a", "logit_bias": {"999999": 1}}, openai.BadRequestError, "logit_bias.999999"),
        ({"prompt": "a", "temperature": 3}, openai.BadRequestError, "temperature"),
        ({"prompt": "a", "model": "nobody"}, openai.NotFoundError, "model"),
        ({"prompt": [1, 10**8]}, openai.BadRequestError, "prompt"),
    ],
    ids=["too long", "nothing to write", "unknown token", "too hot", "unknown model", "no token"],
)
def test_errors_name_the_wrong_field(
    client: openai.OpenAI, options: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(error) as refused:
            client.completions.create(**{"model": "text-generation", **options}, stream=stream)
        assert refused.value.param == param
