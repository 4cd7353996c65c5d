"""Promise: one server answers all seven tasks as plain transformers computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from hf_runtime.settings import ModelSettings
from runners.registry import create_runner
from tests.e2e.checkpoints import CHECKPOINTS
from tests.e2e.server import Server
from tests.tiny import CORPUS

pytestmark = pytest.mark.xdist_group("seven")


@pytest.fixture(scope="module")
def folder(seven_folder: Path) -> Path:
    return seven_folder


@pytest.fixture(scope="module")
def server(seven_server: Server) -> Server:
    return seven_server


def _predict(server: Server, task: str, instances: list[Any], **parameters: Any) -> Any:
    body = {"instances": instances, "parameters": parameters} if parameters else {"instances": instances}
    response = requests.post(f"{server.url}/v1/models/{task}:predict", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def _oracle(folder: Path, task: str) -> Any:
    return pipeline(task, model=str(folder / task))  # type: ignore[call-overload]


def test_every_model_is_listed_and_ready(server: Server) -> None:
    assert requests.get(f"{server.url}/v1/models", timeout=5).json()["models"] == list(CHECKPOINTS)
    for task in CHECKPOINTS:
        model = requests.get(f"{server.url}/v1/models/{task}", timeout=5).json()
        assert (model["name"], model["ready"], model["id"]) == (task, True, task)


def test_the_seeds_text_classification_request(server: Server, folder: Path) -> None:
    texts = ["I love this movie! It's fantastic.", "This is the worst film I've ever seen."]
    answer = _predict(server, "text-classification", texts)
    for entry, expected in zip(answer, _oracle(folder, "text-classification")(texts), strict=True):
        assert entry == [{"label": expected["label"], "score": pytest.approx(expected["score"], abs=1e-5)}]


def test_the_seeds_named_entity_request(server: Server, folder: Path) -> None:
    text = "Apple Inc. was founded by Steve Jobs in Cupertino, California."
    (answer,) = _predict(server, "token-classification", [text])
    expected = _oracle(folder, "token-classification")(text)
    assert expected
    assert answer == [{**entry, "score": pytest.approx(float(entry["score"]), abs=1e-5)} for entry in expected]
    assert all(text[entry["start"] : entry["end"]] for entry in answer)


def test_the_seeds_generation_request_samples_and_counts_the_prompt(server: Server) -> None:
    prompt = "The future of artificial intelligence is"
    parameters = {"max_length": 50, "temperature": 0.7, "do_sample": True}
    ((answer,),) = _predict(server, "text-generation", [prompt], **parameters)
    assert list(answer) == ["generated_text"]
    assert answer["generated_text"].startswith(prompt)
    one, two = (_predict(server, "text-generation", [prompt], **parameters, seed=seed) for seed in (1, 1))
    assert one == two


def test_generation_without_parameters_is_twenty_new_greedy_tokens(server: Server, folder: Path) -> None:
    oracle = _oracle(folder, "text-generation")
    answers = _predict(server, "text-generation", CORPUS)
    for text, answer in zip(CORPUS, answers, strict=True):
        assert answer == oracle(text, max_new_tokens=20, do_sample=False)


def test_text2text_answers_what_generate_does(server: Server, folder: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "text2text-generation")
    tokenizer = AutoTokenizer.from_pretrained(folder / "text2text-generation")
    answers = _predict(server, "text2text-generation", CORPUS, max_new_tokens=8)
    for text, answer in zip(CORPUS, answers, strict=True):
        with torch.inference_mode():
            tokens = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=8, do_sample=False)
        assert answer == [{"generated_text": tokenizer.decode(tokens[0], skip_special_tokens=True)}]


def test_question_answering_gives_a_span_of_the_context(server: Server) -> None:
    context = CORPUS[3]
    (answer,) = _predict(server, "question-answering", [{"question": "Who founded Apple?", "context": context}])
    assert list(answer) == ["score", "start", "end", "answer"]
    assert answer["answer"] == context[answer["start"] : answer["end"]]
    assert 0 <= answer["score"] <= 1


def test_fill_mask_answers_what_the_pipeline_does(server: Server, folder: Path) -> None:
    text = "Paris is the [MASK] of France."
    (answer,) = _predict(server, "fill-mask", [text], top_k=3)
    expected = _oracle(folder, "fill-mask")(text, top_k=3)
    assert answer == [{**entry, "score": pytest.approx(entry["score"], abs=1e-5)} for entry in expected]


def test_feature_extraction_gives_the_models_sentence_embedding_or_the_tokens_if_asked(
    server: Server, folder: Path
) -> None:
    tokens = np.array(_oracle(folder, "feature-extraction")(CORPUS[0])[0])
    (sentence,) = _predict(server, "feature-extraction", [CORPUS[0]])
    mean = tokens.mean(axis=0)
    assert sentence == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    (plain,) = _predict(server, "feature-extraction", [CORPUS[0]], pooling="none", normalize=False)
    assert np.array(plain) == pytest.approx(tokens[None], abs=1e-5)


@pytest.mark.parametrize(
    ("task", "body", "named"),
    [
        ("text-classification", {"instances": ["a", 1]}, "instances[1]"),
        ("text-classification", {"instances": ["a"], "parameters": {"topk": 1}}, "did you mean 'top_k'"),
        ("text-classification", {"instances": ["the " * 200]}, "maximum context length is 64 tokens"),
        ("token-classification", {"instances": ["a"], "parameters": {"aggregation_strategy": "some"}}, "aggregation"),
        ("question-answering", {"instances": [{"question": "who?"}]}, "context"),
        ("text-generation", {"instances": ["Hello world"], "parameters": {"max_length": 2}}, "max_length"),
        ("text-generation", {"instances": ["Hello"], "parameters": {"temperature": -1}}, "parameters.temperature"),
        ("fill-mask", {"instances": ["no mask"]}, "[MASK]"),
        ("feature-extraction", {"instances": ["a"], "parameters": {"pooling": "sum"}}, "parameters.pooling"),
    ],
)
def test_a_mistake_is_a_400_that_names_it(server: Server, task: str, body: Any, named: str) -> None:
    response = requests.post(f"{server.url}/v1/models/{task}:predict", json=body, timeout=60)
    assert response.status_code == 400
    assert named in response.json()["error"]


NUMBERS = [None, True, False, -1, 0, 1, 2, 20, 64, 10**6, 10**20, 0.5, 1.5, 1e308]
OTHERS = ["", "a", "mean", "max", "simple", [], ["a"], ["film", ""], {}, {"a": 1}, [[]], "\0", "[MASK]"]
TEXTS = st.sampled_from(
    [
        *("", " ", "hello", "the " * 30, "the " * 90, "🙂", "東京 Tokyo", "\u202e\u0301", "\0", "[PAD]"),
        *("[CLS] a [SEP]", "<|endoftext|>", "a [MASK]", "[MASK] [MASK]"),
    ]
)
INSTANCES: st.SearchStrategy[Any] = (
    TEXTS
    | st.fixed_dictionaries({"question": TEXTS, "context": TEXTS})
    | st.fixed_dictionaries({"text": TEXTS, "text_pair": TEXTS})
    | st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "x"]), "content": TEXTS}), max_size=2)
    | st.sampled_from([None, 1, 1.5, True, [], {}, [[["a"]]]])
)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    task: Any = draw(st.sampled_from(list(CHECKPOINTS)))
    known = list(create_runner(ModelSettings(storage_uri="", task=task)).parameters_type.model_fields)
    parameters = draw(
        st.dictionaries(st.sampled_from([*known, "unknown"]), st.sampled_from(NUMBERS + OTHERS), max_size=3)
    )
    return task, {"instances": draw(st.lists(INSTANCES, min_size=1, max_size=3)), "parameters": parameters}


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(_requests())
def test_no_request_is_ever_the_servers_fault(server: Server, request_body: tuple[str, dict[str, Any]]) -> None:
    task, body = request_body
    response = requests.post(f"{server.url}/v1/models/{task}:predict", json=body, timeout=60)
    assert response.status_code in (200, 400), f"{task} {body}: {response.text}"
    assert "predictions" in response.json() or response.json()["error"]
